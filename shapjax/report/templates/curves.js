// Curves: buttons pick out methods, pointing at a chart names the nearest line.
const SLOTS = 6;  // colors; further methods share them with dashes

for (const figure of document.querySelectorAll(".curves")) {
  const lines = [...figure.querySelectorAll(".line")];
  const buttons = [...figure.querySelectorAll(".legend button")];
  const tip = figure.querySelector(".tip");

  const paint = () => {
    const slots = new Map(buttons.filter((b) => b.dataset.slot).map((b) => [b.dataset.method, Number(b.dataset.slot)]));
    for (const element of [...lines, ...buttons]) {
      const slot = slots.get(element.dataset.method);
      const lit = slot !== undefined;
      element.classList.toggle("lit", lit);
      element.classList.toggle("dashed", slot >= SLOTS);
      element.style.setProperty("--color", lit ? `var(--line-${slot % SLOTS})` : "");
      if (lit && lines.includes(element)) element.parentNode.append(element);  // above the others
    }
  };

  const point = (method) => {
    for (const line of lines) line.classList.toggle("pointed", line.dataset.method === method);
    for (const button of buttons) button.classList.toggle("pointed", button.dataset.method === method);
  };

  const freeSlot = () => {
    const taken = new Set(buttons.map((button) => button.dataset.slot));
    let slot = 0;
    while (taken.has(String(slot))) slot += 1;
    return slot;
  };

  for (const button of buttons) {
    const method = button.dataset.method;
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      if (on) button.dataset.slot = freeSlot();
      else delete button.dataset.slot;
      paint();
    });
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => point(method));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => point(null));
  }

  for (const chart of tip ? figure.querySelectorAll(".chart") : []) {
    const [left, right, top, bottom] = JSON.parse(chart.dataset.box);
    const [low, high, end] = ["low", "high", "end"].map((name) => Number(chart.dataset[name]));
    const inside = [...chart.querySelectorAll(".line")].map((line) => ({
      method: line.dataset.method,
      points: line.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number)),
    }));
    const nearest = (x, y) => {
      let best = { distance: Infinity };
      for (const { method, points } of inside) {
        const at = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
        const distance = Math.abs(at[1] - y);
        if (distance < best.distance) best = { distance, method, at };
      }
      return best;
    };
    chart.addEventListener("pointermove", (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      const { method, at } = nearest(place.x, place.y);
      const title = buttons.find((button) => button.dataset.method === method).textContent.trim();
      const share = Math.round(100 * end * (at[0] - left) / (right - left));
      point(method);
      const value = low + (bottom - at[1]) / (bottom - top) * (high - low);
      tip.textContent = `${title}: ${percent(value)} with ${share} % of the ${chart.dataset.unit}`;
      tip.hidden = false;
      tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${event.clientY - tip.offsetHeight - 12}px`;
    });
    chart.addEventListener("pointerleave", () => { tip.hidden = true; point(null); });
  }
  if (buttons.length) paint();
}
