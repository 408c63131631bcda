// Pictures of the dashboard as an operator sees it: URL WIDTH FOLDER, where WIDTH is `desktop` or `phone`.
'use strict';
const path = require('path');
const { chromium } = require('playwright-core');

const [url, width, folder] = process.argv.slice(2);
const WIDTHS = {
  desktop: { viewport: { width: 1200, height: 880 }, colorScheme: 'light' },
  phone: { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: 'dark' },
};
/** Long enough for the plots to have something in them. */
const PATIENCE = Number(process.env.PATIENCE ?? 70) * 1000;

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu'] });
  const page = await browser.newPage({ ...WIDTHS[width], reducedMotion: 'reduce' });
  await page.goto(url);
  await page.locator('#tunnels-table tbody tr').first().waitFor();
  if (width === 'desktop') await page.selectOption('#sort', 'bytes');
  await page.waitForTimeout(PATIENCE);
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  await page.screenshot({ path: path.join(folder, `dashboard-${width}.png`) });
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
