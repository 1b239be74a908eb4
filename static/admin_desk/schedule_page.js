// Pages with one schedule of their own.
import { pickSchedule } from "./schedule.js";

for (const place of document.querySelectorAll("[data-desk-schedule]")) pickSchedule(place);
