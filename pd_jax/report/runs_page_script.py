"""What filters and sorts the rows of a report's page. The page's policy lets this very text run, and no other."""

SCRIPT = """
(function () {
  "use strict";
  var form = document.querySelector("form.filters"), table = document.getElementById("runs");
  if (!form || !table) return;
  var body = table.tBodies[0], rows = Array.from(body.rows), heads = Array.from(table.tHead.rows[0].cells);
  var count = document.querySelector("p.count"), kinds = ["game", "network", "loss", "teacher"];
  var what = rows.length === 1 ? " row" : " rows";
  var texts = rows.map(function (row) { return row.textContent.toLowerCase() + " " + (row.querySelector("[title]") ?
    row.querySelector("[title]").title.toLowerCase() : ""); });
  function compare(place, factor) {
    return function (one, other) {
      var a = one.cells[place].dataset.sort, b = other.cells[place].dataset.sort;
      if (a === "" || b === "") return (a === "") - (b === "");
      var x = Number(a), y = Number(b);
      if (!isNaN(x) && !isNaN(y)) return factor * (x - y);
      return factor * a.localeCompare(b, undefined, { numeric: true });
    };
  }
  function show() {
    var words = form.elements.text.value.toLowerCase().split(/\\s+/).filter(Boolean), shown = 0;
    rows.forEach(function (row, index) {
      var fits = kinds.every(function (kind) {
        var wanted = form.elements[kind].value;
        return wanted === "" || row.dataset[kind] === wanted;
      }) && words.every(function (word) { return texts[index].indexOf(word) >= 0; });
      row.hidden = !fits;
      shown += fits;
    });
    count.textContent = shown === rows.length ? rows.length + what : shown + " of " + rows.length + what;
    var place = form.elements.sort.value, order = form.elements.order.value;
    var sorted = rows.slice();
    if (place !== "") sorted.sort(compare(Number(place), order === "down" ? -1 : 1));
    sorted.forEach(function (row) { body.appendChild(row); });
    heads.forEach(function (head, index) {
      head.setAttribute("aria-sort", String(index) !== place ? "none" : order === "down" ? "descending" : "ascending");
    });
  }
  heads.forEach(function (head, index) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", function () {
      var again = form.elements.sort.value === String(index) && form.elements.order.value === "up";
      form.elements.sort.value = String(index);
      form.elements.order.value = again ? "down" : "up";
      show();
    });
    head.textContent = "";
    head.appendChild(button);
  });
  form.addEventListener("input", show);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("reset", function () { setTimeout(show, 0); });
  form.hidden = false;
  show();
})();
"""
