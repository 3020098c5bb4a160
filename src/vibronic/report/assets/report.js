// Fills the widgets of a report from the JSON inside each; a widget that fails keeps its sentence.
"use strict";

const FIELD_OF_VIEW = 20;
const FRAMES = 24;

function fill(host, draw) {
  const fallback = host.querySelector(".fallback");
  try {
    draw(host, JSON.parse(host.querySelector("script").textContent));
    fallback.remove();
  } catch (error) {
    host.querySelector(".canvas")?.remove();
    host.dataset.error = String(error);
  }
}

function plot(host, figure) {
  const options = {
    responsive: true,
    displaylogo: false,
    displayModeBar: matchMedia("(hover: hover)").matches && "hover",
    // A list of our own: plotly's default buttons include one that uploads the figure.
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };
  const canvas = host.appendChild(document.createElement("div"));
  canvas.className = "canvas";
  // The page sets the size of the host; the figure fills it.
  delete figure.layout.width;
  delete figure.layout.height;
  Plotly.newPlot(canvas, figure.data, figure.layout, options).catch((error) => (host.dataset.error = String(error)));
}

function crystal(host, scene) {
  const point = ([x, y, z]) => ({ x, y, z });
  const canvas = host.appendChild(document.createElement("div"));
  canvas.className = "canvas";
  canvas.tabIndex = 0;
  const viewer = $3Dmol.createViewer(canvas, { backgroundAlpha: 0, orthographic: true, disableFog: true });
  const model = viewer.addModel();
  const mates = scene.atoms.map(() => []);
  for (const [a, b] of scene.links ?? []) (mates[a].push(b), mates[b].push(a));
  const drawn = (a, k) => ({ elem: a.elem, ...point(a.xyz), serial: k, label: a.label, bonds: mates[k] });
  model.addAtoms(scene.atoms.map((a, k) => ({ ...drawn(a, k), bondOrder: mates[k].map(() => 1) })));
  for (const [elem, look] of Object.entries(scene.elements)) model.setStyle({ elem }, { sphere: look });
  if (scene.links) {
    // Sticks between atoms follow them; the cylinders of other scenes would stay where they are.
    for (const elem of Object.keys(scene.elements)) model.setStyle({ elem }, { stick: { radius: 0.08, color: "#8c8c8c" } }, true);
  }
  for (const bond of scene.bonds) {
    viewer.addCylinder({ ...bond, start: point(bond.start), end: point(bond.end), fromCap: 2, toCap: 2 });
  }
  if (scene.cell) outline(viewer, scene.cell);
  if (scene.volume) {
    const data = new $3Dmol.VolumeData(scene.volume.cube, "cube");
    for (const { isoval, color, opacity } of scene.volume.surfaces) {
      viewer.addIsosurface(data, { isoval, color, opacity, smoothness: 2 });
    }
  }

  let label = null;
  const show = (atom) => {
    label ??= viewer.addLabel(atom.label, { position: atom, fontSize: 13, backgroundOpacity: 0.8, inFront: true });
  };
  const hide = () => {
    if (label) viewer.removeLabel(label);
    label = null;
  };
  viewer.setHoverable({}, true, show, hide);
  if (scene.links) vibrate(viewer, model, scene, canvas);

  // The cell counts too: atoms that fill a corner of it would leave the rest outside.
  const ends = [...scene.atoms, ...corners(scene.cell).map((xyz) => ({ xyz }))];
  const axes = [0, 1, 2].map((k) => ends.map((a) => a.xyz[k]));
  const centre = axes.map((values) => (Math.min(...values) + Math.max(...values)) / 2);
  const reach = (a) => Math.hypot(...a.xyz.map((x, k) => x - centre[k])) + (scene.elements[a.elem]?.radius ?? 0);
  const radius = Math.max(2, ...ends.map(reach)) + (scene.volume ? 1 : 0);
  viewer.setCameraParameters({ fov: FIELD_OF_VIEW });
  const reset = () => {
    viewer.zoomTo(); // for the clipping planes
    viewer.setView([...centre.map((x) => -x), 0, 0, 0, 0, 1]);
    // 3Dmol leaves half of a wide viewer empty; this fits the sphere around the atoms into the shorter side.
    const aspect = Math.max(1, canvas.clientWidth / canvas.clientHeight);
    viewer.setPerceivedDistance((aspect * radius) / Math.tan((FIELD_OF_VIEW * Math.PI) / 180));
    if (scene.cell) {
      // Read from the last to the first: c upwards, then a little from the side and from above.
      viewer.rotate(14, "x");
      viewer.rotate(-22, "y");
      viewer.rotate(-90, "x");
    }
    viewer.render();
  };
  reset();
  host.addEventListener("dblclick", reset);
  // The page must stay scrollable: the wheel zooms only a viewer that was clicked.
  const passing = (event) => {
    if (!canvas.contains(document.activeElement)) event.stopPropagation();
  };
  host.addEventListener("wheel", passing, { capture: true, passive: true });
  canvas.addEventListener("mousedown", () => canvas.focus({ preventScroll: true }));
  new ResizeObserver(() => viewer.resize()).observe(canvas);
}

// Atoms move to and fro while they are on the screen; arrows tell the motion to whoever wants none, and on paper.
function vibrate(viewer, model, scene, canvas) {
  const at = ([x, y, z]) => ({ x, y, z });
  const longest = Math.max(...scene.atoms.map((a) => Math.hypot(...a.move)));
  for (const { xyz, move } of scene.atoms) {
    if (Math.hypot(...move) < 0.15 * longest) continue;
    // From the surface of the sphere, or short arrows would hide in it.
    const end = xyz.map((x, k) => x + 3 * move[k]);
    viewer.addArrow({ start: at(xyz), end: at(end), radius: 0.09, radiusRatio: 2.2, mid: 0.75, color: "#d55e00" });
  }
  const rest = model.selectedAtoms({});
  for (let frame = 0; frame < FRAMES; frame++) {
    const phase = Math.sin((2 * Math.PI * frame) / FRAMES);
    model.addFrame(
      rest.map((atom, k) => {
        const [x, y, z] = scene.atoms[k].xyz.map((value, axis) => value + phase * scene.atoms[k].move[axis]);
        return { ...atom, x, y, z };
      }),
    );
  }
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  // Most of it must be seen: every frame is built anew, and a page holds several.
  const watch = ([{ intersectionRatio }]) => {
    if (intersectionRatio < 0.6) viewer.stopAnimate();
    else if (!viewer.isAnimated()) viewer.animate({ interval: 70, loop: "forward", reps: 0 });
  };
  new IntersectionObserver(watch, { threshold: [0, 0.6] }).observe(canvas);
}

function corners(cell) {
  let found = [[0, 0, 0]];
  for (const v of cell ?? []) found = [...found, ...found.map((p) => p.map((x, k) => x + v[k]))];
  return cell ? found : [];
}

function outline(viewer, [a, b, c]) {
  const sum = (...vectors) => [0, 1, 2].map((k) => vectors.reduce((total, v) => total + v[k], 0));
  const origin = [0, 0, 0];
  const at = ([x, y, z]) => ({ x, y, z });
  for (const [edge, u, v] of [[a, b, c], [b, c, a], [c, a, b]]) {
    for (const start of [origin, u, v, sum(u, v)]) {
      viewer.addCylinder({ start: at(start), end: at(sum(start, edge)), radius: 0.025, color: "#888888" });
    }
  }
  const name = { fontSize: 18, bold: true, fontColor: "#6f767d", showBackground: false, inFront: true, alignment: "center" };
  for (const [text, v] of [["a", a], ["b", b], ["c", c]]) {
    const length = Math.hypot(...v);
    viewer.addLabel(text, { ...name, position: at(v.map((x) => x * (1 + 1.1 / length))) }, undefined, true);
  }
}

for (const host of document.querySelectorAll("div.plot")) fill(host, plot);
for (const host of document.querySelectorAll("div.crystal")) fill(host, crystal);
