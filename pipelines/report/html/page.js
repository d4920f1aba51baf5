"use strict";
// Fills the figures of the page with what its controls choose. Text goes into the page as text only, never as markup.
(async () => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const byId = (id) => document.getElementById(id);
  const models = {};
  for (const [id, item] of Object.entries(content.plots)) await Bokeh.embed.embed_item(item, id);
  for (const made of Bokeh.documents) for (const model of made._all_models.values()) if (model.name) models[model.name] = model;
  const touch = matchMedia("(pointer: coarse)").matches;
  const letScroll = (node) => { // by a finger on a figure, which Bokeh prevents
    if (node.classList?.contains("bk-events")) node.style.touchAction = "pan-y pinch-zoom";
    for (const child of [...node.children, ...(node.shadowRoot ? [node.shadowRoot] : [])]) letScroll(child);
  };
  if (touch) for (const plot of document.querySelectorAll(".plot")) letScroll(plot);

  const element = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const show = (value, digits = 3) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(digits).replace(/^-(?=0\.?0*$)/, ""));

  // Buttons that show and hide lines: a picture of the line, and its name.
  const patterns = { solid: "", dashed: "6 4", dotted: "2 3", dotdash: "2 3 6 3" };
  const lineButton = (name, colour, dash, change) => {
    const button = element("button", undefined, { type: "button", class: "line", "aria-pressed": "true" });
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [key, value] of [["width", 28], ["height", 10], ["aria-hidden", true]]) picture.setAttribute(key, value);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const look = { x1: 0, x2: 28, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": patterns[dash] };
    for (const [key, value] of Object.entries(look)) line.setAttribute(key, value);
    picture.append(line);
    button.append(picture, name);
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", pressed);
      change(pressed);
    });
    return button;
  };

  // Colours of the figures follow those of the page.
  const paint = () => {
    const style = getComputedStyle(document.documentElement);
    const [text, quiet, grid, back] = ["--text", "--quiet", "--line", "--back"].map((name) => style.getPropertyValue(name).trim());
    for (const made of Bokeh.documents) {
      for (const model of made._all_models.values()) {
        if (model.type.endsWith("Axis")) {
          model.setv({ axis_label_text_color: quiet, major_label_text_color: quiet, axis_line_color: grid, major_tick_line_color: grid, minor_tick_line_color: null });
        } else if (model.type === "Grid") model.grid_line_color = grid + "80";
        else if (model.type === "Figure") model.setv({ background_fill_color: back, border_fill_color: back });
        else if (model.type === "Title") model.text_color = text;
        else if ((model.name || "").startsWith("line-0-")) model.glyph.line_color = text;
        else if ((model.name || "").startsWith("cursor-")) model.line_color = quiet;
        else if ((model.name || "").startsWith("mapper-")) model.palette = palettes[darkness.matches ? 1 : 0];
      }
    }
  };
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const shades = models["mapper-label"] ? [...models["mapper-label"].palette] : [];
  const palettes = [shades, [...shades].reverse()]; // what is rare is near the background
  darkness.addEventListener("change", paint);

  // Training
  const curves = () => {
    const chosen = content.curves[byId("history").value];
    const kind = byId("kind").value;
    const data = { xs: [], ys: [], colour: [], dash: [], width: [], alpha: [], system: [], run: [] };
    for (const line of chosen.lines) {
      if (hidden.has(line.number)) continue;
      const single = line.epochs.length === 1; // a solved model has one epoch
      data.xs.push(single ? [line.epochs[0] - 0.15, line.epochs[0] + 0.15] : line.epochs);
      const values = line[kind].map((value) => (value === null ? NaN : value));
      data.ys.push(single ? [values[0], values[0]] : values);
      data.colour.push(line.look[0]);
      data.dash.push(line.look[1]);
      data.width.push(line.mean ? 2.4 : 0.8);
      data.alpha.push(line.mean ? 1 : 0.55);
      data.system.push(line.system);
      data.run.push(line.run);
    }
    models["curves-source"].data = data;
    for (const [range, values] of [["x_range", data.xs.flat()], ["y_range", data.ys.flat().filter((value) => !Number.isNaN(value))]]) {
      if (!values.length) continue;
      const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
      const pad = 0.04 * (high - low || 1);
      models.curves[range].setv({ start: low - pad, end: high + pad });
    }
    models.curves.left[0].axis_label = byId("kind").selectedOptions[0].textContent;
  };
  const hidden = new Set();
  const chooseHistory = () => {
    const chosen = content.curves[byId("history").value];
    byId("kind").replaceChildren(...chosen.kinds.map(([kind, title]) => element("option", title, { value: kind })));
    hidden.clear();
    byId("curves-legend").replaceChildren(
      ...chosen.lines.filter((line) => line.mean).map((line) =>
        lineButton(line.system, line.look[0], line.look[1], (visible) => {
          visible ? hidden.delete(line.number) : hidden.add(line.number);
          curves();
        })));
    curves();
  };
  byId("history").addEventListener("change", chooseHistory);
  byId("kind").addEventListener("change", curves);
  byId("all-epochs").addEventListener("click", curves); // after zooming
  chooseHistory();
  if (touch) models.curves.toolbar.active_drag = null;
  paint();
  document.documentElement.dataset.ready = "training";
  if (!content.trials.length) {
    document.documentElement.dataset.ready = "all";
    return;
  }

  // Trials
  const SCALE = 10000, UNKNOWN = -32768;
  const decode = (text, target) => {
    const bytes = Uint8Array.from(atob(text), (mark) => mark.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const length = bytes.length / 2 / content.targets.length;
    const { middle, half } = content.targets[target];
    return Float64Array.from({ length }, (_, place) => {
      const number = view.getInt16(2 * (target * length + place), true);
      return number === UNKNOWN ? NaN : middle + (number / SCALE) * half;
    });
  };
  const time = models.time;
  let trial, data, end;
  const chooseTrial = () => {
    trial = content.trials[Number(byId("trial").value)];
    data = {};
    let length = 0;
    content.targets.forEach((_, target) => trial.lines.forEach((line, number) => {
      const values = line === null ? null : decode(line, target);
      length = values ? values.length : length;
      data[`line-${number}-${target}`] = values;
    }));
    for (const [name, values] of Object.entries(data)) data[name] = values || new Float64Array(length).fill(NaN);
    const [first, interval] = trial.times;
    data.time = trial.times.length === length && length > 2 ? Float64Array.from(trial.times) : Float64Array.from({ length }, (_, place) => first + place * interval);
    end = data.time[length - 1];
    models.frames.data = { ...data };
    for (const modality of Object.keys(content.gaps)) {
      const runs = trial.missing[modality] || [];
      models[`gaps-${modality}`].data = { x0: runs.map((run) => run[0]), x1: runs.map((run) => run[1]) };
    }
    const missing = Object.entries(trial.missing).map(([modality, runs]) =>
      `${content.gaps[modality] || `no ${modality}`} for ${runs.reduce((sum, run) => sum + run[1] - run[0], 0).toFixed(1)} s`);
    byId("trial-text").textContent = `Subject ${trial.subject}, ${trial.frames} frames at ${trial.rate} frames/s` +
      (trial.step > 1 ? `, every ${trial.step}th shown` : "") + (missing.length ? `; ${missing.join(", ")}` : "") + ".";
    byId("moment").max = length - 1;
    byId("moment").value = 0;
    byId("previous").disabled = byId("trial").selectedIndex === 0;
    byId("next").disabled = byId("trial").selectedIndex === content.trials.length - 1;
    zoom(data.time[0], end);
    moment(0);
  };
  const zoom = (start, stop) => {
    const [low, high] = [data.time[0], end > data.time[0] ? end : data.time[0] + 1];
    const narrowest = 4 * (data.time.length > 1 ? data.time[1] - data.time[0] : 1); // some frames
    const width = Math.min(Math.max(stop - start, narrowest), high - low);
    const from = Math.max(low, Math.min(start, high - width));
    time.setv({ start: from, end: from + width });
  };
  const moment = (place) => {
    const now = data.time[place];
    const within = (runs) => (runs || []).some(([start, stop]) => start <= now + 1e-6 && now + 1e-6 < stop);
    byId("moment-text").textContent = `${now.toFixed(2)} s`;
    byId("moment").setAttribute("aria-valuetext", `${now.toFixed(2)} seconds`);
    content.targets.forEach((_, target) => { models[`cursor-${target}`].location = now; });
    const nearest = trial.faces.reduce((best, face) => (best && Math.abs(best[0] - now) <= Math.abs(face[0] - now) ? best : face), null);
    const seen = nearest && !within(trial.missing.visual);
    byId("face").hidden = !seen;
    byId("no-face").hidden = Boolean(seen);
    byId("no-face").textContent = nearest ? "no face" : "no picture";
    if (seen) {
      byId("face").src = nearest[1];
      byId("face").alt = `Face at ${nearest[0].toFixed(1)} seconds`;
    }
    byId("values").replaceChildren(...["label", ...content.systems].map((name, number) => {
      const pair = element("div");
      const values = content.targets.map(({ name: title }, target) => `${title} ${show(data[`line-${number}-${target}`][place], 2)}`);
      pair.append(element("dt", name), element("dd", values.join(", ")));
      return pair;
    }));
  };
  const nearestTo = (seconds) => {
    let [low, high] = [0, data.time.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      data.time[middle] < seconds ? (low = middle + 1) : (high = middle);
    }
    return low > 0 && seconds - data.time[low - 1] < data.time[low] - seconds ? low - 1 : low;
  };
  const scaleTime = (factor) => {
    const width = (time.end - time.start) * factor;
    const at = data.time[Number(byId("moment").value)];
    const centre = factor < 1 && at >= time.start && at <= time.end ? at : (time.start + time.end) / 2;
    zoom(centre - width / 2, centre + width / 2);
  };
  const shift = (share) => zoom(time.start + share * (time.end - time.start), time.end + share * (time.end - time.start));
  const step = (by) => {
    byId("trial").selectedIndex += by;
    chooseTrial();
  };
  byId("trial").addEventListener("change", chooseTrial);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("zoom-in").addEventListener("click", () => scaleTime(0.5));
  byId("zoom-out").addEventListener("click", () => scaleTime(2));
  byId("earlier").addEventListener("click", () => shift(-0.5));
  byId("later").addEventListener("click", () => shift(0.5));
  byId("whole").addEventListener("click", () => zoom(data.time[0], end));
  byId("moment").addEventListener("input", () => moment(Number(byId("moment").value)));
  const pointed = (event) => {
    const place = nearestTo(event.x);
    byId("moment").value = place;
    moment(place);
  };
  content.targets.forEach((_, target) => {
    const panel = models[`panel-${target}`];
    for (const name of ["mousemove", "tap"]) panel.on_event(name, pointed);
    if (touch) panel.toolbar.active_drag = null; // dragging scrolls the page
  });
  const setLine = (number) => (visible) => content.targets.forEach((_, target) => { models[`line-${number}-${target}`].visible = visible; });
  const band = ([modality, called]) => {
    const entry = element("span");
    entry.append(element("span", undefined, { class: `swatch ${modality}` }), called);
    return entry;
  };
  byId("lines-legend").append(
    lineButton("label", "currentColor", "solid", setLine(0)),
    ...content.systems.map((name, number) => lineButton(name, ...content.looks[number], setLine(number + 1))),
    ...Object.entries(content.gaps).map(band));
  chooseTrial();

  // Circumplex
  const CELLS = content.cells;
  const plane = (kind, number, most) => {
    const [cells, shares] = content.planes[number];
    const range = (axis) => models[`plane-${kind}`][axis];
    const place = (axis, cell) => {
      const { start, end: stop } = range(axis);
      const half = (stop - start) / 2 / 1.05;
      return (start + stop) / 2 - half + ((cell + 0.5) / CELLS) * 2 * half;
    };
    models[`cells-${kind}`].data = {
      x: cells.map((cell) => place("x_range", cell % CELLS)),
      y: cells.map((cell) => place("y_range", Math.floor(cell / CELLS))),
      shade: shares.map((share) => Math.sqrt(share / most)),
      share: shares,
    };
  };
  for (const select of document.querySelectorAll("select.system")) select.append(...content.systems.map((name, number) => element("option", name, { value: number })));
  if (content.planes.length) {
    const choosePlane = () => {
      const number = Number(byId("plane-system").value) + 1;
      const most = Math.max(...content.planes[0][1], ...content.planes[number][1], 1e-9);
      plane("label", 0, most);
      plane("prediction", number, most);
      models["plane-prediction"].title.text = `prediction of ${content.systems[number - 1]}`;
    };
    byId("plane-system").addEventListener("change", choosePlane);
    choosePlane();
  }

  // Errors
  const SHOWN = 10; // of each end
  const pressed = (id) => byId(id).getAttribute("aria-pressed") === "true";
  const fill = (table, names, rows, cells) => {
    const count = content.targets.length;
    const order = rows.map((_, place) => place).filter((place) => rows[place][count] !== null).sort((a, b) => rows[b][count] - rows[a][count]);
    if (pressed("order")) order.reverse();
    const most = Math.max(...order.map((place) => rows[place][count]), 1e-9);
    const head = element("tr");
    head.append(element("th", names[0], { scope: "col" }), element("th", "error", { scope: "col" }),
      ...content.targets.map((target) => element("th", `error, ${target.name}`, { scope: "col", class: "number" })),
      element("th", "CCC", { scope: "col", class: "number" }), ...names.slice(1).map((name) => element("th", name, { scope: "col" })));
    const shorten = !pressed("all") && order.length > 2 * SHOWN;
    const kept = shorten ? [...order.slice(0, SHOWN), null, ...order.slice(-SHOWN)] : order;
    const body = element("tbody");
    for (const place of kept) {
      const row = element("tr");
      if (place === null) row.append(element("td", `… ${order.length - 2 * SHOWN} between`, { colspan: count + 3 + names.length }));
      else {
        const figures = rows[place];
        const error = element("td");
        const bar = element("span", undefined, { class: "bar" });
        bar.style.width = `${(5 * figures[count]) / most}rem`;
        error.append(bar, show(figures[count]));
        row.append(element("th", undefined, { scope: "row" }), error);
        row.append(...content.targets.map((_, target) => element("td", show(figures[target]), { class: "number" })));
        row.append(element("td", show(figures[count + 1]), { class: "number" }), ...cells(place, row.firstChild));
      }
      body.append(row);
    }
    const top = element("thead");
    top.append(head);
    byId(table).replaceChildren(top, body);
  };
  const chooseErrors = () => {
    const number = Number(byId("error-system").value);
    fill("by-subject", ["subject"], content.errors.subjects[number], (place, name) => {
      name.textContent = content.errors.names[place];
      return [];
    });
    fill("by-trial", ["trial", "subject", ""], content.errors.trials[number], (place, name) => {
      const [id, subject] = content.errors.ids[place];
      name.textContent = id;
      const shown = content.places.indexOf(place);
      const open = element("button", "Show", { type: "button", "aria-label": `Show trial ${id}` });
      open.addEventListener("click", () => {
        byId("trial").value = shown;
        chooseTrial();
        byId("trials").scrollIntoView();
        byId("trial").focus({ preventScroll: true });
      });
      const cell = element("td");
      if (shown >= 0) cell.append(open);
      return [element("td", subject), cell];
    });
  };
  byId("error-system").addEventListener("change", chooseErrors);
  for (const id of ["order", "all"]) {
    byId(id).addEventListener("click", () => {
      byId(id).setAttribute("aria-pressed", !pressed(id));
      chooseErrors();
    });
  }
  chooseErrors();
  document.documentElement.dataset.ready = "all";
})();
