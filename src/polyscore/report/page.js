"use strict";
let playing = null;
function stop() {
  if (!playing) return;
  playing.audio.pause();
  playing.tile.classList.remove("on");
  playing = null;
}
function play(tile, then) {
  stop();
  const audio = tile.querySelector("audio");
  const head = tile.querySelector(".head");
  playing = { tile, audio };
  tile.classList.add("on");
  audio.currentTime = 0;
  audio.onended = () => { stop(); if (then) then(); };
  const follow = () => {
    if (!playing || playing.tile !== tile) return;
    head.style.left = 100 * audio.currentTime / (audio.duration || 1) + "%";
    requestAnimationFrame(follow);
  };
  audio.play().then(follow, stop);
}
document.querySelectorAll(".sound").forEach(tile => tile.addEventListener("click", () => {
  if (playing && playing.tile === tile) stop(); else play(tile);
}));
document.querySelectorAll(".all").forEach(button => button.addEventListener("click", () => {
  const tiles = [...button.closest("section").querySelectorAll(".sound")];
  const next = i => { if (i < tiles.length) play(tiles[i], () => next(i + 1)); };
  next(0);
}));
