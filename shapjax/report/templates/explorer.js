// The explorer: one image, one class, every method's map; a patch read in all maps; the top patches taken away.
// `patch` is the one under the pointer, else the one that was chosen by click or key (`chosen`), else null.
const explorerCard = document.querySelector(".explorer");

if (explorerCard) {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const [rows, columns] = data.grid;
  const patches = rows * columns;
  const cell = { width: 100 / columns, height: data.height / rows };
  const state = { image: 0, class: 0, removed: 0, scale: "own", chosen: null, hovered: null };
  const find = (selector, root = explorerCard) => root.querySelector(selector);
  const findAll = (selector, root = explorerCard) => [...root.querySelectorAll(selector)];

  // Numbers ------------------------------------------------------------------------------------------------------

  const decode = (text, Type) => new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const numbers = {
    attributions: decode(data.attributions, Float32Array),
    deleted: decode(data.deleted, Float32Array),
    order: decode(data.order, Uint16Array),
    half_width: data.half_width && decode(data.half_width, Float32Array),
  };
  const images = data.images.length;
  const classes = data.images[0].classes.length;

  // The row of [methods, images, classes, length] for a method and what is chosen now.
  const row = (name, method, length) => {
    const start = ((method * images + state.image) * classes + state.class) * length;
    return numbers[name].subarray(start, start + length);
  };
  const values = (method) => row("attributions", method, patches);
  const course = (method) => row("deleted", method, patches + 1);
  const largest = (method) => Math.max(...values(method).map(Math.abs)) || 1;
  const rank = (method, patch) => {
    const map = values(method);
    return 1 + map.filter((value) => value > map[patch]).length;
  };
  // " ± 0.3": half of the interval of the model's own value; nothing for other methods.
  const error = (method, patch) => {
    if (!numbers.half_width || !data.methods[method].own) return "";
    const half = numbers.half_width[(state.image * classes + state.class) * patches + patch];
    return ` ± ${valueText(half, largest(method)).slice(1)}`;
  };
  const patchName = (patch) => `row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
  const chosenClass = () => data.images[state.image].classes[state.class];

  // Parts --------------------------------------------------------------------------------------------------------

  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const box = (patch) => ({
    x: (patch % columns) * cell.width, y: Math.floor(patch / columns) * cell.height,
    width: cell.width, height: cell.height,
  });
  const between = Array.from({ length: rows - 1 }, (_, i) => `M0 ${(i + 1) * cell.height}H100`).join("")
    + Array.from({ length: columns - 1 }, (_, i) => `M${(i + 1) * cell.width} 0V${data.height}`).join("");

  const makeMap = (method, index) => {
    const figure = find("template").content.firstElementChild.cloneNode(true);
    const picture = find(".picture", figure);
    figure.dataset.method = method.key;
    figure.classList.toggle("own", method.own);
    Object.assign(find(".name", figure), { textContent: method.title, title: method.title });
    picture.setAttribute("viewBox", `0 0 100 ${data.height}`);
    for (const part of findAll(".ground, image", picture)) part.setAttribute("height", data.height);
    find("image", picture).classList.toggle("pixels", data.pixelated);
    find(".lines", picture).setAttribute("d", between);
    const tints = Array.from({ length: patches }, (_, patch) => svg("rect", box(patch)));
    find(".tints", picture).append(...tints);
    find(".maps").append(figure);
    return { method, index, figure, picture, tints };
  };

  const input = find(".map.input");
  const maps = data.methods.map(makeMap);
  const shownMaps = () => maps.filter((map) => !map.figure.hidden);

  const grid = find(".patches");
  const gridCells = Array.from({ length: rows }, (_, r) => {
    const line = Object.assign(document.createElement("div"), { role: "row" });
    line.append(...Array.from({ length: columns }, (_, c) => {
      const place = Object.assign(document.createElement("div"), { role: "gridcell", tabIndex: -1 });
      place.dataset.patch = r * columns + c;
      place.setAttribute("aria-label", `Row ${r + 1}, column ${c + 1}`);
      return place;
    }));
    grid.append(line);
    return [...line.children];
  }).flat();
  gridCells[0].tabIndex = 0;
  grid.style.setProperty("--columns", columns);
  grid.style.setProperty("--rows", rows);

  // Drawing ------------------------------------------------------------------------------------------------------

  const limits = () => {
    const own = maps.map(({ index }) => largest(index));
    if (state.scale === "own") return own;
    const shared = Math.max(...shownMaps().filter((map) => map.method.logits).map((map) => own[map.index]), 0) || 1;
    return own.map((limit, index) => (data.methods[index].logits ? shared : limit));
  };

  const drawMaps = () => {
    const uri = findAll(".thumbs img")[state.image].src;
    find("img", input).src = uri;
    const { label } = data.images[state.image];
    find(".label", input).textContent = label === null ? "no label" : `label ${label}`;
    const scales = limits();
    for (const { method, index, figure, picture, tints } of maps) {
      const image = find("image", picture);
      image.setAttribute("href", uri);
      image.classList.toggle("inverted", data.images[state.image].darkGround);
      const map = values(index);
      map.forEach((value, patch) => {
        const position = Math.floor(256 * (0.5 + value / scales[index] / 2));
        tints[patch].setAttribute("fill", data.colors[Math.max(0, Math.min(255, position))]);
      });
      const [low, high] = [Math.min(...map), Math.max(...map)];
      const text = (value) => valueText(value, largest(index));
      find(".scale-end", figure).textContent = `colors to ±${valueText(scales[index], scales[index]).slice(1)}`;
      figure.classList.toggle("other-unit", state.scale === "logits" && !method.logits);
      picture.setAttribute("aria-label", `${method.title} for class ${chosenClass().name}: largest ${text(high)} in `
        + `${patchName(map.indexOf(high))}; smallest ${text(low)} in ${patchName(map.indexOf(low))}`);
    }
    const shared = state.scale === "logits" && scales[maps.find((map) => map.method.logits).index];
    find(".scale .low").textContent = shared ? valueText(-shared, shared) : "− largest";
    find(".scale .high").textContent = shared ? `${valueText(shared, shared)} logits` : "+ largest";
  };

  const drawRemoved = () => {
    const name = chosenClass().name;
    for (const { index, figure, picture } of maps) {
      const gone = [...row("order", index, patches).slice(0, state.removed)].map(box);
      find(".removed", picture).setAttribute("d",
        gone.map(({ x, y, width, height }) => `M${x} ${y}h${width}v${height}h${-width}z`).join(""));
      find(".hatch", picture).setAttribute("d", gone.map(({ x, y, width, height }) =>
        `M${x} ${y + height / 2}l${width / 2} ${-height / 2}M${x} ${y + height}l${width} ${-height}`
        + `M${x + width / 2} ${y + height}l${width / 2} ${-height / 2}`).join(""));
      const probabilities = [...course(index)];
      find(".after b", figure).textContent = probabilityText(probabilities[state.removed]);
      find(".after small", figure).textContent = state.removed ? `without top ${state.removed}` : "nothing removed";
      find(".meter span", figure).style.width = `${100 * probabilities[state.removed]}%`;
      const points = probabilities.map((p, k) => `${(100 * k / patches).toFixed(2)},${(29 - 28 * p).toFixed(2)}`);
      find(".course polyline", figure).setAttribute("points", points.join(" "));
      find(".course .area", figure).setAttribute("d", `M0 30L${points.join("L")}L100 30z`);
      const at = 100 * state.removed / patches;
      for (const end of ["x1", "x2"]) find(".course line", figure).setAttribute(end, at);
    }
    find(".after b", input).textContent = probabilityText(chosenClass().probability);
    find(".meter span", input).style.width = `${100 * chosenClass().probability}%`;
    const slider = find("#removed");
    slider.value = state.removed;
    slider.setAttribute("aria-valuetext", `${state.removed} of ${patches} patches`);
    find("output").textContent = `${state.removed} of ${patches}`;
    find(".deck label").title = `Shown below each map: the probability of ${name} without them`;
  };

  const drawPatch = () => {
    const patch = state.hovered ?? state.chosen;
    for (const { index, figure, picture } of maps) {
      for (const cursor of findAll(".cursor", picture)) {
        cursor.classList.toggle("on", patch !== null);
        if (patch !== null) for (const [key, value] of Object.entries(box(patch))) cursor.setAttribute(key, value);
      }
      find(".patch", figure).textContent = patch === null ? "\u00a0"
        : `${valueText(values(index)[patch], largest(index))}${error(index, patch)} · rank ${rank(index, patch)}`;
    }
    gridCells.forEach((place, i) => place.classList.toggle("on", i === patch));
    find(".patch", input).textContent = patch === null ? "\u00a0" : patchName(patch);
    find(".where").textContent = patch === null ? "Point at a patch to read its value and rank in every map."
      : `Patch in ${patchName(patch)}: value and rank (of ${patches}) below each map${numbers.half_width ? "; ± is the 95 % interval" : ""}.`;
  };

  const draw = () => { drawMaps(); drawRemoved(); drawPatch(); };

  // What a screen reader hears once a key or click has chosen something; the pointer alone says nothing.
  const speak = (start, ofMap) => {
    find(".spoken").textContent = `${start}: ${shownMaps().map((map) => `${map.method.title} ${ofMap(map)}`).join("; ")}`;
  };

  // Controls -----------------------------------------------------------------------------------------------------

  const offerClasses = () => {
    const choices = data.images[state.image].classes.map(({ name, probability, label, predicted }, index) => {
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "class", value: index });
      radio.checked = index === state.class;
      const text = document.createElement("span");
      const notes = [predicted && "predicted", label && "label"].filter(Boolean).join(", ");
      text.append(name, " ", Object.assign(document.createElement("b"), { textContent: probabilityText(probability) }));
      if (notes) text.append(" ", Object.assign(document.createElement("small"), { textContent: notes }));
      const choice = document.createElement("label");
      choice.append(radio, text);
      return choice;
    });
    find(".classes div").replaceChildren(...choices);
  };

  const choosePatch = (patch) => {
    gridCells.forEach((place, i) => { place.tabIndex = i === patch ? 0 : -1; });
    state.chosen = patch;
    drawPatch();
    speak(`Patch in ${patchName(patch)}`, ({ index }) =>
      `${valueText(values(index)[patch], largest(index))}${error(index, patch)}, rank ${rank(index, patch)}`);
  };

  const patchAt = (event) => {
    const area = event.target.closest(".picture")?.getBoundingClientRect();
    if (!area) return null;
    const inside = (position, count) => Math.max(0, Math.min(count - 1, Math.floor(position * count)));
    return inside((event.clientY - area.top) / area.height, rows) * columns
      + inside((event.clientX - area.left) / area.width, columns);
  };

  find(".thumbs").addEventListener("change", (event) => {
    Object.assign(state, { image: Number(event.target.value), class: 0 });
    offerClasses();
    draw();
  });
  find(".classes").addEventListener("change", (event) => { state.class = Number(event.target.value); draw(); });
  find(".scales").addEventListener("change", (event) => { state.scale = event.target.value; drawMaps(); });

  const showMaps = () => {
    const boxes = findAll("[name=method]");
    boxes.forEach((choice, index) => { maps[index].figure.hidden = !choice.checked; });
    find(".shown-count").textContent = `${boxes.filter((choice) => choice.checked).length} of ${boxes.length}`;
  };
  find(".shown").addEventListener("change", () => { showMaps(); drawMaps(); });

  find("#removed").addEventListener("input", (event) => { state.removed = Number(event.target.value); drawRemoved(); });
  find("#removed").addEventListener("change", () => speak(
    `Probability of ${chosenClass().name} without the top ${state.removed}`,
    ({ index }) => probabilityText(course(index)[state.removed])));

  const area = find(".maps");
  area.addEventListener("pointermove", (event) => {
    const patch = event.pointerType === "touch" ? null : patchAt(event);
    if (patch === state.hovered) return;
    state.hovered = patch;
    drawPatch();
  });
  area.addEventListener("pointerleave", () => { state.hovered = null; drawPatch(); });
  area.addEventListener("click", (event) => {
    const patch = patchAt(event);
    if (patch !== null) gridCells[patch].focus({ preventScroll: true });
  });

  grid.addEventListener("focusin", (event) => choosePatch(Number(event.target.dataset.patch)));
  grid.addEventListener("keydown", (event) => {
    const patch = Number(event.target.dataset.patch);
    const [r, c] = [Math.floor(patch / columns), patch % columns];
    const moves = {
      ArrowLeft: [r, Math.max(0, c - 1)], ArrowRight: [r, Math.min(columns - 1, c + 1)],
      ArrowUp: [Math.max(0, r - 1), c], ArrowDown: [Math.min(rows - 1, r + 1), c],
      Home: [r, 0], End: [r, columns - 1],
    };
    if (event.key === "Escape") {
      state.chosen = null;
      event.target.blur();
      drawPatch();
    }
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    state.hovered = null;
    gridCells[moves[event.key][0] * columns + moves[event.key][1]].focus();
  });

  find(".scales").hidden = !maps.some((map) => map.method.logits);
  for (const choice of findAll("[name=image], [name=scale]")) choice.checked = choice.defaultChecked;  // after a reload
  offerClasses();
  showMaps();
  draw();
  explorerCard.hidden = false;
}
