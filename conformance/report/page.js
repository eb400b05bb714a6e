const off = new Set();
const box = document.getElementById("filter");
function apply() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("tbody tr:not(.more)")) {
    const text = row.textContent.toLowerCase();
    const statuses = row.dataset.status.split(" ");
    row.hidden = !words.every((word) => text.includes(word)) || statuses.every((status) => off.has(status));
    const more = row.nextElementSibling;
    if (row.hidden && more && more.classList.contains("more")) more.hidden = true;
  }
  for (const suite of document.querySelectorAll(".suite")) {
    suite.hidden = ![...suite.querySelectorAll("tbody tr:not(.more)")].some((row) => !row.hidden);
  }
}
box.addEventListener("input", apply);
for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    const status = button.dataset.status;
    off.has(status) ? off.delete(status) : off.add(status);
    button.classList.toggle("off", off.has(status));
    apply();
  });
}
for (const row of document.querySelectorAll("tr.has-more")) {
  row.addEventListener("click", (event) => {
    if (event.target.closest("a")) return;
    row.nextElementSibling.hidden = !row.nextElementSibling.hidden;
  });
}
