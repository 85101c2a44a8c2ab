// The table of methods: columns that sort, and small numbers that are intervals or differences.
{
  const table = document.getElementById("methods-table");
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];

  const sortBy = (column, direction) => {
    const key = (row) => row.cells[column].dataset.sort;
    const sign = direction === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is undefined comes last, either way
      return sign * (column === 0 ? x.localeCompare(y, "en") : x - y);
    };
    body.append(...[...body.rows].sort(compare));
    headings.forEach((heading, i) => {
      if (i === column) heading.setAttribute("aria-sort", direction);
      else heading.removeAttribute("aria-sort");
    });
  };

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    if (heading.title) button.title = heading.title;
    heading.removeAttribute("title");
    heading.append(button);
    const [first, second] = heading.dataset.better === "higher" ? ["descending", "ascending"] : ["ascending", "descending"];
    button.addEventListener("click", () => sortBy(column, heading.getAttribute("aria-sort") === first ? second : first));
  });

  // The browser's own hint shows on hover only: this one on focus too, beside the heading, and Escape takes it away.
  const hint = Object.assign(document.createElement("p"), { className: "tip", hidden: true });
  table.closest("figure").append(hint);
  const show = (button) => {
    hint.textContent = button.dataset.hint;
    hint.hidden = false;
    const box = button.getBoundingClientRect();
    hint.style.left = `${Math.max(8, Math.min(box.right - hint.offsetWidth, innerWidth - hint.offsetWidth - 8))}px`;
    hint.style.top = `${box.top - hint.offsetHeight - 6}px`;
  };
  const hide = () => { hint.hidden = true; };
  table.querySelectorAll("button[title]").forEach((button) => {
    button.dataset.hint = button.title;
    button.setAttribute("aria-description", button.title);
    button.removeAttribute("title");
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => show(button));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, hide);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { capture: true, passive: true });

  if (table.querySelector(".difference")) {
    const choice = document.querySelector(".small-numbers");
    choice.hidden = false;
    choice.addEventListener("change", (event) => { table.dataset.small = event.target.value; });
  }
}
