/** All in one file, as servers have it as `/lifeline.js`. */

export * from './document.js';
export * from './index.js';
