"use strict";
(() => {
  // Every text comes from the data block and goes into the page as text: nothing here writes markup.
  const $ = (id) => document.getElementById(id);
  const all = JSON.parse($("data").textContent);
  const gallery = $("gallery"), holder = $("cards"), viewer = $("viewer"), stage = $("stage");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const money = (cost) => (cost === null ? null : "$" + cost);
  const haystacks = all.map((one) =>
    [one.prompt, one.name, one.job, one.id, one.model, one.error, ...Object.entries(one.params).flat(),
      ...Object.entries(one.meta).flat(), ...one.odd].filter(Boolean).join("\n").toLowerCase());
  let found = all.map((_, place) => place);
  let columns = 1, row = 1, picture = 1, chosen = 0, open = -1, turned = 0;
  const alive = new Map(); // place in `found` -> its card

  function make(name, className, text) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined && text !== null) element.textContent = text;
    return element;
  }

  // -- files ---------------------------------------------------------------------------------------------------------

  const blobs = new Map();
  function address(place) {
    const one = all[place];
    if (!one.blob) return one.file;
    if (!blobs.has(place)) {
      const raw = atob($("blob-" + place).textContent);
      const bytes = Uint8Array.from(raw, (c) => c.charCodeAt(0));
      blobs.set(place, URL.createObjectURL(new Blob([bytes], { type: one.type })));
      if (blobs.size > 60) { // as many as are on screen; the rest is made again when it is looked at
        const [oldest, url] = blobs.entries().next().value;
        blobs.delete(oldest);
        if (oldest !== open) URL.revokeObjectURL(url);
      }
    }
    return blobs.get(place);
  }
  const thumbnail = (one) => (one.thumb ? "data:image/webp;base64," + one.thumb : null);

  // -- which ones ----------------------------------------------------------------------------------------------------

  const selects = [...document.querySelectorAll("#filters select")];
  const value = (id) => ($(id) ? $(id).value : "");

  function asked() {
    const words = $("text").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const facets = selects.filter((s) => s.dataset.name && s.value).map((s) => [s.dataset.name, s.value.slice(1)]);
    const model = value("model"), state = value("state"), batch = value("batch"), odd = value("odd");
    return (one, place) =>
      (!model || one.model === model) && (!state || one.state === state) && (!batch || one.batch === batch) &&
      (!odd || (odd === "yes") === one.odd.length > 0) &&
      facets.every(([name, wanted]) => one.meta[name] === wanted) &&
      words.every((word) => haystacks[place].includes(word) || says(one, word));
  }
  function says(one, word) { // `split:train` looks into the column of that name
    const cut = word.indexOf(":");
    if (cut < 1) return false;
    const name = word.slice(0, cut), wanted = word.slice(cut + 1);
    return [one.params, one.meta].some((values) =>
      Object.entries(values).some(([n, v]) => n.toLowerCase() === name && v.toLowerCase().includes(wanted)));
  }
  const orders = {
    new: (one) => one.at, dear: (one) => (one.cost === null ? null : Number(one.cost)), slow: (one) => one.took,
  };

  function filter() {
    const wanted = asked();
    found = [];
    all.forEach((one, place) => { if (wanted(one, place)) found.push(place); });
    const by = orders[value("order")];
    if (by) found.sort((a, b) => (by(all[b]) ?? -Infinity) - (by(all[a]) ?? -Infinity) || a - b);
    chosen = 0;
    const count = found.length.toLocaleString("en");
    $("count").textContent = found.length === all.length ? count : count + " of " + all.length.toLocaleString("en");
    $("clear").hidden = !$("text").value && selects.every((select) => !select.value);
    $("none").hidden = found.length > 0;
    empty();
    layout();
  }
  function clear() {
    $("text").value = "";
    selects.forEach((select) => { select.value = ""; });
    filter();
  }

  // -- the gallery: only what can be seen is in the page ---------------------------------------------------------------

  const shapes = all.filter((one) => one.w && one.h).map((one) => one.w / one.h).sort((a, b) => a - b);
  const shape = Math.min(16 / 9, Math.max(3 / 4, shapes[shapes.length >> 1] || 4 / 3));

  function layout() {
    const narrow = innerWidth <= 760, least = narrow ? 150 : 230, gapX = narrow ? 10 : 14, gapY = narrow ? 14 : 18;
    const width = gallery.clientWidth;
    const fit = Math.max(1, Math.floor((width + gapX) / (least + gapX)));
    const each = (width - gapX * (fit - 1)) / fit;
    picture = Math.round(each / shape);
    row = picture + 68 + gapY; // two lines of the prompt, one of figures
    if (fit !== columns) empty();
    columns = fit;
    holder.style.gridTemplateColumns = "repeat(" + columns + ", minmax(0, 1fr))";
    gallery.style.height = Math.ceil(found.length / columns) * row + "px";
    for (const card of alive.values()) card.firstChild.style.height = picture + "px";
    show();
  }
  function show() {
    const top = -gallery.getBoundingClientRect().top;
    const last = Math.ceil(found.length / columns) - 1;
    const from = Math.max(0, Math.min(last, Math.floor((top - innerHeight / 2) / row)));
    const until = Math.min(last, Math.ceil((top + innerHeight * 1.5) / row));
    const begin = from * columns, end = Math.min(found.length, (until + 1) * columns);
    for (const [place, card] of alive) if (place < begin || place >= end) { let_go(card); alive.delete(place); }
    holder.style.transform = "translateY(" + from * row + "px)";
    let before = null;
    for (let place = begin; place < end; place++) {
      let card = alive.get(place);
      if (!card) {
        card = make_card(place);
        alive.set(place, card);
      }
      if (before ? before.nextSibling !== card : holder.firstChild !== card) {
        before ? before.after(card) : holder.prepend(card);
      }
      before = card;
    }
    mark();
  }
  function empty() {
    for (const card of alive.values()) let_go(card);
    alive.clear();
  }
  function let_go(card) {
    const video = card.querySelector("video");
    if (video) { video.removeAttribute("src"); video.load(); } // browsers keep few videos at once
    card.remove();
  }
  function make_card(place) {
    const one = all[found[place]];
    const card = make("button", "card");
    card.type = "button";
    card.dataset.place = place;
    const pic = make("span", "pic");
    pic.style.height = picture + "px";
    fill(pic, found[place], one);
    const text = make("span", "text", one.prompt || one.name);
    text.dir = "auto";
    const line = make("span", "line");
    const figures = [one.state === "downloaded" ? null : one.state, one.model, money(one.cost)].filter(Boolean);
    line.textContent = figures.join(" · ");
    if (one.odd.length) line.prepend(make("span", "odd", one.odd[0].split(":")[0] + " · "));
    card.append(pic, text, line);
    return card;
  }
  function fill(pic, place, one) {
    const url = thumbnail(one) || address(place);
    if (url && one.kind === "video") {
      const video = make("video");
      video.muted = video.loop = video.playsInline = true;
      video.preload = "metadata";
      video.src = url + (one.blob ? "" : "#t=0.1"); // shows a frame, where the first is often black
      video.addEventListener("error", () => video.replaceWith(missing(one)), { once: true });
      pic.append(video);
      if (one.s) pic.append(make("span", "length", one.s.toFixed(1).replace(/\.0$/, "") + " s"));
    } else if (url) {
      const image = make("img");
      image.alt = "";
      image.decoding = "async";
      image.addEventListener("error", () => image.replaceWith(missing(one)), { once: true });
      image.src = url;
      pic.append(image);
    } else {
      const failed = one.state === "failed" || one.state === "unfetchable" || one.state === "cancelled";
      const words = make("span", failed ? "words bad" : "words", one.error || one.state);
      words.dir = "auto";
      pic.append(words);
    }
  }
  const missing = (one) => make("span", "words", "not where it was: " + one.name);

  // -- moving about ----------------------------------------------------------------------------------------------------

  function mark() {
    if (!alive.has(chosen) && alive.size && !holder.contains(document.activeElement)) chosen = Math.min(...alive.keys());
    for (const [place, card] of alive) card.tabIndex = place === chosen ? 0 : -1;
  }
  function go(place) {
    chosen = Math.max(0, Math.min(found.length - 1, place));
    const top = gallery.getBoundingClientRect().top + Math.floor(chosen / columns) * row;
    const bar = $("filters").offsetHeight;
    if (top < bar) scrollBy({ top: top - bar - 8, behavior: "instant" });
    else if (top + row > innerHeight) scrollBy({ top: top + row - innerHeight, behavior: "instant" });
    show();
    const card = alive.get(chosen);
    if (card) card.focus({ preventScroll: true });
  }
  const steps = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns, ArrowDown: () => columns };

  function play(card, on) {
    const video = card && card.querySelector("video");
    if (!video || (on && calm.matches)) return;
    if (on) video.play().catch(() => {});
    else video.pause();
  }
  for (const [event, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
    holder.addEventListener(event, (e) => play(e.target.closest(".card"), on));
  }

  // -- one of them -----------------------------------------------------------------------------------------------------

  function view(place) {
    if (place < 0 || place >= found.length) return;
    chosen = turned = place;
    open = found[place];
    const one = all[open];
    const url = address(open);
    stage.replaceChildren();
    if (url && one.kind === "video") {
      const video = make("video");
      video.controls = video.loop = video.playsInline = true;
      video.autoplay = !calm.matches;
      video.addEventListener("error", () => video.replaceWith(make("p", "soft", missing(one).textContent)), { once: true });
      video.src = url;
      stage.append(video);
    } else if (url) {
      const image = make("img");
      image.alt = one.prompt;
      image.addEventListener("error", () => { // the page has travelled without its files
        image.addEventListener("error", () => image.replaceWith(make("p", "soft", missing(one).textContent)), { once: true });
        image.src = thumbnail(one) || "data:,";
      }, { once: true });
      image.src = url;
      stage.append(image);
    } else {
      stage.append(make("p", one.error ? "bad" : "soft", one.error || one.state));
    }
    $("name").textContent = one.name;
    $("prompt").textContent = one.prompt;
    $("place").textContent = (place + 1).toLocaleString("en") + " of " + found.length.toLocaleString("en");
    $("back").disabled = place === 0;
    $("next").disabled = place === found.length - 1;
    $("oddities").replaceChildren(...one.odd.map((words) => make("li", "", words)));
    $("open").parentElement.hidden = !url;
    $("again").textContent = one.again || "";
    $("again").parentElement.hidden = !one.again;
    if (url) $("open").href = url;
    $("about").replaceChildren(...facts(one).flatMap(([name, said]) => {
      const told = make("dd", "", said);
      told.dir = "auto";
      return [make("dt", "", name), told];
    }));
    $("about").parentElement.scrollTop = 0;
    if (!viewer.open) viewer.showModal();
  }
  function facts(one) {
    const size = one.w && one.h ? one.w + " × " + one.h : null;
    const sound = one.audio === null ? null : one.audio ? "with sound" : "no sound";
    const film = one.s ? [one.s + " s", one.fps && one.fps + " frames a second", sound].filter(Boolean).join(", ") : null;
    const bytes = one.bytes === null ? null : one.bytes < 1e6 ? Math.ceil(one.bytes / 1e3) + " kB"
      : (one.bytes / 1e6).toFixed(1) + " MB";
    const at = one.at ? new Date(one.at * 1000) : null;
    return [
      ["state", one.state], ["error", one.error], ["model", one.model], ["cost", money(one.cost)],
      ...Object.entries(one.params), ...Object.entries(one.meta),
      ["size", size], ["video", film], ["file", bytes], ["made in", one.took === null ? null : one.took + " s"],
      ["at", at && !isNaN(at) ? at.toISOString().slice(0, 19).replace("T", " ") + " UTC" : null],
      ["job", one.of > 1 ? one.job + ", sample " + one.sample + " of " + one.of : one.job], ["batch", one.batch],
      ["generation_id", one.id],
    ].filter(([, said]) => said !== null && said !== undefined && said !== "");
  }
  viewer.addEventListener("close", () => {
    stage.replaceChildren();
    open = -1;
    go(turned); // the browser has put the focus back to where it was before the pages were turned
  });
  viewer.addEventListener("click", (e) => { if (e.target === viewer) viewer.close(); });
  $("close").addEventListener("click", () => viewer.close());
  $("back").addEventListener("click", () => view(chosen - 1));
  $("next").addEventListener("click", () => view(chosen + 1));

  // -- keys ------------------------------------------------------------------------------------------------------------

  function theme() {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  }
  document.addEventListener("keydown", (e) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName);
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (viewer.open) {
      if (e.target.tagName === "VIDEO" && e.key !== "Escape") return; // its own controls have these keys
      const video = stage.querySelector("video");
      if (e.key === "ArrowLeft") view(chosen - 1);
      else if (e.key === "ArrowRight") view(chosen + 1);
      else if (e.key === " " && video) video.paused ? video.play().catch(() => {}) : video.pause();
      else if (e.key === "t") return theme();
      else return;
      e.preventDefault();
    } else if (typing) {
      if (e.key === "Escape" && e.target === $("text")) { $("text").value = ""; filter(); }
      else if (e.key === "ArrowDown" && e.target === $("text")) { e.preventDefault(); go(chosen); }
    } else if (e.key === "/") {
      e.preventDefault();
      $("text").focus();
    } else if (e.key === "t") {
      theme();
    } else if (holder.contains(e.target)) {
      if (steps[e.key]) { e.preventDefault(); go(chosen + steps[e.key]()); }
      else if (e.key === "Home") { e.preventDefault(); go(0); }
      else if (e.key === "End") { e.preventDefault(); go(found.length - 1); }
    }
  });
  holder.addEventListener("click", (e) => {
    const card = e.target.closest(".card");
    if (card) view(Number(card.dataset.place));
  });
  holder.addEventListener("focusin", (e) => {
    const card = e.target.closest(".card");
    if (card) { chosen = Number(card.dataset.place); mark(); }
  });

  $("theme").addEventListener("click", theme);
  $("filters").addEventListener("submit", (e) => e.preventDefault());
  $("filters").addEventListener("input", filter);
  $("clear").addEventListener("click", clear);
  $("clear2").addEventListener("click", clear);
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; show(); });
  }, { passive: true });
  addEventListener("resize", layout);
  filter();
})();
