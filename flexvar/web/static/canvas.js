"use strict";
// The picture that is edited: a mask by brush, a box, or a wider frame. All in picture pixels.
const Paint = (() => {
  const canvas = document.getElementById("paint");
  const context = canvas.getContext("2d");
  let image = null, mask = null, strokes = [], box = null, margins = [0, 0, 0, 0];
  let mode = "inpaint", brush = 12, erasing = false, drawing = null, changed = () => {};

  function load(source) {
    return new Promise((resolve, reject) => {
      const found = new Image();
      found.onload = () => {
        image = found; strokes = []; box = null; margins = [0, 0, 0, 0];
        mask = document.createElement("canvas");
        mask.width = found.naturalWidth; mask.height = found.naturalHeight;
        draw(); changed(); resolve();
      };
      found.onerror = () => reject(new Error("This file cannot be read as a picture."));
      found.src = source;
    });
  }

  function scale() {
    if (!image) return 1;
    const longest = Math.max(image.naturalWidth + margins[1] + margins[3], image.naturalHeight + margins[0] + margins[2]);
    return Math.max(1, Math.floor(360 / longest));
  }

  function replay() {
    const pen = mask.getContext("2d");
    pen.clearRect(0, 0, mask.width, mask.height);
    for (const stroke of strokes) {
      pen.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
      pen.strokeStyle = pen.fillStyle = "#fff";
      pen.lineWidth = stroke.size; pen.lineCap = pen.lineJoin = "round";
      pen.beginPath();
      stroke.points.forEach(([x, y], n) => n ? pen.lineTo(x, y) : pen.moveTo(x, y));
      if (stroke.points.length === 1) { pen.arc(...stroke.points[0], stroke.size / 2, 0, 7); pen.fill(); } else pen.stroke();
    }
  }

  function draw() {
    if (!image) return;
    const [top, right, bottom, left] = mode === "outpaint" ? margins : [0, 0, 0, 0];
    const zoom = scale();
    canvas.width = (image.naturalWidth + left + right) * zoom;
    canvas.height = (image.naturalHeight + top + bottom) * zoom;
    context.imageSmoothingEnabled = false;
    context.drawImage(image, left * zoom, top * zoom, image.naturalWidth * zoom, image.naturalHeight * zoom);
    if (mode === "inpaint") {
      replay();
      context.globalAlpha = 0.6;
      const tinted = document.createElement("canvas");
      tinted.width = mask.width; tinted.height = mask.height;
      const pen = tinted.getContext("2d");
      pen.drawImage(mask, 0, 0);
      pen.globalCompositeOperation = "source-in"; pen.fillStyle = "#e0218a"; pen.fillRect(0, 0, mask.width, mask.height);
      context.drawImage(tinted, 0, 0, mask.width * zoom, mask.height * zoom);
      context.globalAlpha = 1;
    }
    if (mode === "edit" && box) {
      context.strokeStyle = "#e0218a"; context.lineWidth = 2;
      context.strokeRect(box[0] * zoom, box[1] * zoom, (box[2] - box[0]) * zoom, (box[3] - box[1]) * zoom);
    }
    if (mode === "outpaint") {
      context.strokeStyle = "#e0218a"; context.lineWidth = 2;
      context.strokeRect(1, 1, canvas.width - 2, canvas.height - 2);
    }
  }

  function at(event) {
    const place = canvas.getBoundingClientRect(), zoom = scale();
    return [(event.clientX - place.left) * canvas.width / place.width / zoom, (event.clientY - place.top) * canvas.height / place.height / zoom];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!image) return;
    canvas.setPointerCapture(event.pointerId);
    const point = at(event);
    if (mode === "inpaint") { drawing = { size: brush, erase: erasing, points: [point] }; strokes.push(drawing); }
    if (mode === "edit") { drawing = point; box = [...point.map(Math.floor), ...point.map((v) => Math.floor(v) + 1)]; }
    if (mode === "outpaint") drawing = { from: point, start: [...margins] };
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    const point = at(event);
    if (mode === "inpaint") drawing.points.push(point);
    if (mode === "edit") box = bounded([drawing[0], drawing[1], point[0], point[1]]);
    if (mode === "outpaint") {
      const [dx, dy] = [point[0] - drawing.from[0], point[1] - drawing.from[1]], [t, r, b, l] = drawing.start;
      const inner = [drawing.from[0] - l, drawing.from[1] - t];
      margins = inner[0] > image.naturalWidth / 2 ? [t, grow(r, dx), b, l] : [t, r, b, grow(l, -dx)];
      margins = inner[1] > image.naturalHeight / 2 ? [margins[0], margins[1], grow(b, dy), margins[3]] : [grow(t, -dy), margins[1], b, margins[3]];
      changed();
    }
    draw();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { if (drawing) { drawing = null; changed(); } });

  function grow(value, by) { return Math.max(0, Math.min(1024, Math.round((value + by) / 8) * 8)); }
  function bounded([x0, y0, x1, y1]) {
    const limit = (v, most) => Math.max(0, Math.min(most, Math.round(v)));
    const xs = [limit(x0, image.naturalWidth), limit(x1, image.naturalWidth)].sort((a, b) => a - b);
    const ys = [limit(y0, image.naturalHeight), limit(y1, image.naturalHeight)].sort((a, b) => a - b);
    return [xs[0], ys[0], Math.max(xs[1], xs[0] + 1), Math.max(ys[1], ys[0] + 1)];
  }

  function file(source) {
    const sheet = document.createElement("canvas");
    sheet.width = image.naturalWidth; sheet.height = image.naturalHeight;
    const pen = sheet.getContext("2d");
    if (source === mask) { replay(); pen.fillStyle = "#000"; pen.fillRect(0, 0, sheet.width, sheet.height); }
    pen.drawImage(source, 0, 0);
    if (source === mask) {
      // A brush has soft edges; a mask has none.
      const pixels = pen.getImageData(0, 0, sheet.width, sheet.height);
      for (let n = 0; n < pixels.data.length; n += 4) { const v = pixels.data[n] > 127 ? 255 : 0; pixels.data.set([v, v, v, 255], n); }
      pen.putImageData(pixels, 0, 0);
    }
    return sheet.toDataURL("image/png").split(",")[1];
  }

  return {
    load, draw,
    get ready() { return image !== null; },
    get size() { return [image.naturalHeight, image.naturalWidth]; },
    get box() { return box; },
    get margins() { return margins; },
    set margins(value) { margins = value.map((v) => Math.max(0, Math.min(1024, v | 0))); draw(); },
    set mode(value) { mode = value; draw(); },
    set brush(value) { brush = value; },
    set erasing(value) { erasing = value; },
    set onchange(value) { changed = value; },
    undo() { strokes.pop(); draw(); },
    clear() { strokes = []; box = null; margins = [0, 0, 0, 0]; draw(); changed(); },
    // The keyboard's way: the middle half.
    middle() {
      if (!image) return;
      const [h, w] = [image.naturalHeight, image.naturalWidth];
      if (mode === "edit") box = bounded([w / 4, h / 4, 3 * w / 4, 3 * h / 4]);
      else strokes.push({ size: Math.min(h, w) / 2, erase: erasing, points: [[w / 2, h / 2]] });
      draw(); changed();
    },
    picture() { return file(image); },
    mask() { return file(mask); },
  };
})();
