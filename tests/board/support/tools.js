// The packages of the tests. They are installed below `target`, not in this tree; BOARD_TOOLS names
// the folder (scripts/test-board sets it).

import { createRequire } from 'node:module';
import path from 'node:path';

const folder = process.env.BOARD_TOOLS;
if (!folder) throw new Error('BOARD_TOOLS is not set: run scripts/test-board');
const require = createRequire(path.join(folder, 'package.json'));

export const { chromium } = require('playwright-core');

/** The source of axe, for the page. */
export const axeSource = require('axe-core').source;
