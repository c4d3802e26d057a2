// A drawn chart as a picture to keep: on the paper of the current theme, below a line that says what it shows.
import { h } from './dom.js';
import { token } from './theme.js';

export const PNG_SCALE = 2; // device pixels for each CSS pixel of the chart on the page
const HEAD = 30;

/** canvas: the plot, at PNG_SCALE; names: [{name, colour, dash}]. Answers a promise of the PNG as a Blob. */
export function toPng(plot, title, names) {
  const canvas = h('canvas', { width: plot.width, height: plot.height + HEAD * PNG_SCALE });
  const pen = canvas.getContext('2d');
  pen.fillStyle = token('--panel');
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(plot, 0, HEAD * PNG_SCALE);
  pen.scale(PNG_SCALE, PNG_SCALE);
  pen.textBaseline = 'middle';
  pen.font = `600 13px ${token('--sans')}`;
  pen.fillStyle = token('--ink');
  pen.fillText(title, 12, 18);
  let x = 12 + pen.measureText(title).width + 16;
  pen.font = `11.5px ${token('--sans')}`;
  for (const { name, colour, dash } of names) {
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.setLineDash(Array.isArray(dash) ? dash : []);
    pen.beginPath();
    pen.moveTo(x, 18);
    pen.lineTo(x + 18, 18);
    pen.stroke();
    pen.fillText(name, x + 23, 18);
    x += 23 + pen.measureText(name).width + 14;
  }
  return new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
}
