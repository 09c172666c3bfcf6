"use strict";
// Each traversal has a slider. Of images it moves a film strip behind a window; of tables, bars.
for (const box of document.querySelectorAll("[data-traversal]")) {
  const slider = box.querySelector("input");
  const output = box.querySelector("output");
  const film = box.querySelector(".film img");
  const bars = box.querySelectorAll(".bars tbody tr");
  const told = JSON.parse(box.querySelector("script").textContent);
  const show = () => {
    const k = Number(slider.value);
    output.textContent = told.positions[k];
    slider.setAttribute("aria-valuetext", told.positions[k]);
    if (film) {
      film.style.transform = `translateY(${(-100 * k) / told.positions.length}%)`;
    }
    bars.forEach((row, i) => {
      const share = told.shares[k][i];
      const bar = row.querySelector("i");
      bar.style.left = `${50 * Math.min(1, 1 + share)}%`;
      bar.style.width = `${50 * Math.abs(share)}%`;
      row.lastElementChild.textContent = told.values[k][i];
    });
  };
  slider.addEventListener("input", show);
  show();
}
