// Pictures of the demo's page as a visitor sees it: PORT CA WIDTH FOLDER, where WIDTH is `desktop` or `phone`.
'use strict';
const path = require('path');
const { main } = require('../../tests/browser/browser');

const [port, ca, width, folder] = process.argv.slice(2);
const WIDTHS = {
  desktop: { viewport: { width: 1200, height: 960 }, colorScheme: 'light', reducedMotion: 'reduce' },
  phone: { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: 'light', reducedMotion: 'reduce' },
};

const on = (page, id) => page.getByTestId(id);
const answered = (page, count) => page.locator('#log li[data-kind="message"]').nth(count - 1).waitFor();

/** A conversation worth looking at. */
async function talk(page) {
  await page.selectOption('#protocol', 'echo-protocol');
  await on(page, 'connect').click();
  await page.locator('#state[data-ready-state="1"]').waitFor();
  await on(page, 'message').fill('Grüße through the gate');
  await on(page, 'send').click();
  await answered(page, 1);
  await on(page, 'tab-binary').click();
  await on(page, 'random-size').selectOption('1048576');
  await on(page, 'send-random').click();
  await answered(page, 2);
  await on(page, 'tab-text').click();
  await on(page, 'message').fill('Still there?');
  await on(page, 'send').click();
  await answered(page, 3);
}

main(ca, WIDTHS[width], async (context) => {
  const page = await context.newPage();
  await page.goto(`https://localhost:${port}/`, { waitUntil: 'load' });
  await talk(page);
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  await page.screenshot({ path: path.join(folder, `demo-${width}.png`) });

  // The frames of the other two Origins are painted only where the window shows them.
  if (width === 'desktop') {
    await on(page, 'origin-run').click();
    await page.locator('#origin-summary[data-result]').waitFor();
    await page.evaluate(() => document.activeElement.blur());
    await page.locator('section', { has: page.locator('#origin-run') }).screenshot({ path: path.join(folder, 'demo-origins.png') });
  }
});
