// The slice viewer of a report: one dialog, filled from the case that was clicked.
const PRESETS = {"abdomen": [40, 400], "soft tissue": [50, 250], "bone": [400, 1800], "lung": [-600, 1500]};
const dialog = document.querySelector("#viewer");
const part = name => dialog.querySelector(`[data-part="${name}"]`);
const canvas = part("canvas");
let shown = null;  // the case's slices, and for each its greys once they are decoded

function huOfGrey(knots) {
  return Float32Array.from({length: 256}, (_, grey) => {
    const next = Math.max(1, knots.findIndex(knot => knot[1] >= grey));
    const [[hu0, grey0], [hu1, grey1]] = [knots[next - 1], knots[next]];
    return hu0 + (hu1 - hu0) * (grey - grey0) / (grey1 - grey0);
  });
}

async function greysOf(slice) {
  if (!slice.greys) {
    const image = new Image();
    image.src = "data:image/jpeg;base64," + slice.image;
    await image.decode();
    const scratch = new OffscreenCanvas(shown.columns, shown.rows).getContext("2d");
    scratch.drawImage(image, 0, 0);
    const rgba = scratch.getImageData(0, 0, shown.columns, shown.rows).data;
    slice.greys = rgba.filter((_, index) => index % 4 === 0);
  }
  return slice.greys;
}

async function draw() {
  const drawn = shown, number = Number(part("slice").value), slice = drawn.slices[number];
  const greys = await greysOf(slice);
  if (drawn !== shown || number !== Number(part("slice").value)) return;  // another is wanted by now
  const [centre, width] = PRESETS[part("window").value];
  const shade = drawn.hu.map(hu => 255 * (hu - centre + width / 2) / width);
  const pixels = new ImageData(drawn.columns, drawn.rows);
  greys.forEach((grey, index) => pixels.data.set([shade[grey], shade[grey], shade[grey], 255], 4 * index));
  if (part("mask").checked) {
    for (let run = 0; run < slice.runs.length; run += 3) {
      const [start, length, value] = slice.runs.slice(run, run + 3);
      const colour = drawn.colours[value];
      for (let index = start; index < start + length; index++)
        for (let band = 0; band < 3; band++)
          pixels.data[4 * index + band] = 0.6 * pixels.data[4 * index + band] + 0.4 * colour[band];
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  part("where").textContent = `slice ${slice.number} of ${drawn.of}`;
}

function step(by) {
  part("slice").value = Number(part("slice").value) + by;  // the slider keeps it in range
  draw();
}

function swatch({name, colour}) {
  const square = document.createElement("span");
  square.className = "colour";
  square.style.background = colour;
  return [square, name];
}

function openViewer(name, data) {
  shown = JSON.parse(data);
  const bands = ({value, colour}) => [value, [1, 3, 5].map(start => parseInt(colour.slice(start, start + 2), 16))];
  shown.colours = Object.fromEntries(shown.classes.map(bands));
  part("legend").replaceChildren("Mask:", ...shown.classes.flatMap(swatch));
  shown.hu = huOfGrey(shown.knots);
  [canvas.width, canvas.height] = [shown.columns, shown.rows];
  const [high, wide] = [shown.rows * shown.pixel_mm[0], shown.columns * shown.pixel_mm[1]];
  const zoom = Math.min(innerHeight * 0.75 / high, innerWidth * 0.85 / wide);
  [canvas.style.height, canvas.style.width] = [`${high * zoom}px`, `${wide * zoom}px`];
  part("name").textContent = name;
  part("slice").max = shown.slices.length - 1;
  part("slice").value = shown.first;
  dialog.showModal();
  part("slice").focus();
  draw();
}

Object.keys(PRESETS).forEach(name => part("window").add(new Option(name)));
["slice", "window", "mask"].forEach(name => part(name).oninput = draw);
part("close").onclick = () => dialog.close();
dialog.addEventListener("wheel", event => { event.preventDefault(); step(Math.sign(event.deltaY)); }, {passive: false});
dialog.addEventListener("keydown", event => {
  const keys = {
    Escape: () => dialog.close(),
    ArrowDown: () => step(1), ArrowUp: () => step(-1), PageDown: () => step(10), PageUp: () => step(-10),
    m: () => { part("mask").checked = !part("mask").checked; draw(); },
  };
  const preset = Object.keys(PRESETS)[Number(event.key) - 1];
  if (preset) keys[event.key] = () => { part("window").value = preset; draw(); };
  if (keys[event.key] && !event.ctrlKey && !event.metaKey) { event.preventDefault(); keys[event.key](); }
});
document.querySelectorAll("button[data-slices]").forEach(button => button.onclick = () =>
  openViewer(button.dataset.name, document.getElementById(button.dataset.slices).textContent));
