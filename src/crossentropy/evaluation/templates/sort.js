// A click on a column's name sorts the table by it; a second click turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const isNumber = header.classList.contains("number");
      const before = header.getAttribute("aria-sort");
      const after = before === "descending" || (!before && !isNumber) ? "ascending" : "descending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", after);
      const sign = after === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
      const compare = isNumber
        ? (a, b) => { const x = Number(key(a)), y = Number(key(b)); return x < y ? -1 : x > y ? 1 : 0; }
        : (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
      const rows = [...table.tBodies[0].rows].sort((a, b) => sign * compare(a, b));
      table.tBodies[0].append(...rows);
    });
  });
}
