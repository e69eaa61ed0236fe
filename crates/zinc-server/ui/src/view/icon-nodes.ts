/** Icons as DOM nodes, for the parts of the page that are drawn without the component library. */

import { outlines, type IconName } from './icons';

const SVG = 'http://www.w3.org/2000/svg';

/** An icon, which screen readers pass over. */
export function icon(name: IconName): SVGElement {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  for (const d of outlines[name]) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('d', d);
    svg.append(path);
  }
  return svg;
}
