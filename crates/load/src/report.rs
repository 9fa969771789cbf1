//! One HTML file that needs nothing else: figures, and plots as inline SVG.

use std::fmt::Write;

use serde_json::Value;

use crate::run::{Outcome, Point};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 48.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 10.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2733;--soft:#66727f;--line:#d8dee5;--back:#fff;--a:#0b6bcb;--b:#c2571a;--c:#8a3ffc}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#93a1af;--line:#313b47;--back:#11161c;--a:#5aa9ff;--b:#ff9d5c;--c:#c39bff}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:1400px;margin:0 auto;padding:16px}\
h1{font-size:1.4rem;margin:.2em 0}h2{font-size:1rem;margin:0 0 .3em}p{color:var(--soft);margin:.2em 0 1em;overflow-wrap:anywhere}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:20px}\
figure{margin:0}svg{width:100%;height:auto;display:block}text{fill:var(--soft);font-size:12px}\
.grid{stroke:var(--line);stroke-width:1}path{fill:none;stroke-width:2;stroke-linejoin:round}\
.a{stroke:var(--a)}.b{stroke:var(--b)}.c{stroke:var(--c)}figcaption span{margin-right:1em}\
.a-ink{color:var(--a)}.b-ink{color:var(--b)}.c-ink{color:var(--c)}\
table{border-collapse:collapse;width:100%;margin:0 0 20px}td,th{border-bottom:1px solid var(--line);padding:4px 8px;text-align:left;overflow-wrap:anywhere}\
td:last-child{font-variant-numeric:tabular-nums}.met{color:#1a8f3c}.missed{color:#d1242f;font-weight:600}";

/// One line of a plot.
struct Line {
    name: &'static str,
    class: &'static str,
    values: Vec<(f64, f64)>,
}

/// The page of a run. `verdicts`: condition, measured, met.
pub fn html(title: &str, outcome: &Outcome, verdicts: &[(String, f64, bool)]) -> String {
    let report = outcome.to_json();
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <title>{0}</title><style>{STYLE}</style><h1>lifeline-load</h1><p>{0}</p>",
        escape(title)
    );
    if !verdicts.is_empty() {
        page += "<table><tr><th>threshold<th>measured<th>";
        for (condition, measured, met) in verdicts {
            let word = if *met { "met" } else { "missed" };
            let _ = write!(page, "<tr><td>{}<td>{measured:.3}<td class={word}>{word}", escape(condition));
        }
        page += "</table>";
    }
    page += "<table>";
    rows(&mut page, "", &report);
    page += "</table><div class=plots>";
    let points = &outcome.points;
    let over = |pick: &dyn Fn(&Point) -> f64| points.iter().map(|point| (point.at, pick(point))).collect::<Vec<_>>();
    plot(
        &mut page,
        "Delay over time, ms",
        "s",
        &[
            Line { name: "p50", class: "a", values: over(&|point| point.delays[0]) },
            Line { name: "p99", class: "b", values: over(&|point| point.delays[1]) },
            Line { name: "max", class: "c", values: over(&|point| point.delays[2]) },
        ],
    );
    let delays = &outcome.total.delays;
    let quantiles = (0..=60).map(|step| {
        // Each ten steps one more nine.
        let nines = f64::from(step) / 10.0;
        (nines, if delays.is_empty() { 0.0 } else { delays.value_at_quantile(1.0 - 10_f64.powf(-nines)) as f64 / 1e6 })
    });
    let quantiles = Line { name: "delay", class: "a", values: quantiles.collect() };
    plot(&mut page, "Delay by percentile, ms (1: p90, 2: p99, 3: p99.9 …)", "nines", &[quantiles]);
    let open = Line { name: "open", class: "a", values: over(&|point| point.open as f64) };
    plot(&mut page, "Connections", "s", &[open]);
    let rate = Line { name: "messages/s", class: "a", values: over(&|point| point.rate) };
    plot(&mut page, "Messages a second", "s", &[rate]);
    plot(
        &mut page,
        "CPU, cores",
        "s",
        &[
            Line { name: "server", class: "a", values: over(&|point| point.server_cores) },
            Line { name: "generator", class: "b", values: over(&|point| point.own_cores) },
        ],
    );
    if points.iter().any(|point| point.pss > 0) {
        let memory = over(&|point| point.pss as f64 / (1024.0 * 1024.0));
        plot(&mut page, "Server memory (PSS), MiB", "s", &[Line { name: "PSS", class: "a", values: memory }]);
    }
    page + "</div>\n"
}

fn rows(page: &mut String, prefix: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                rows(page, &name, value);
            }
        }
        Value::Number(number) if number.is_f64() => {
            let _ = write!(page, "<tr><td>{}<td>{:.4}", escape(prefix), number.as_f64().unwrap_or(0.0));
        }
        other => {
            let text = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            let _ = write!(page, "<tr><td>{}<td>{}", escape(prefix), escape(&text));
        }
    }
}

fn plot(page: &mut String, title: &str, unit: &str, lines: &[Line]) {
    let all = || lines.iter().flat_map(|line| line.values.iter().copied());
    let right = all().map(|(x, _)| x).fold(1e-9, f64::max);
    let top = ceiling(all().map(|(_, y)| y).fold(0.0, f64::max));
    let place = |(x, y): (f64, f64)| {
        let x = LEFT + x / right * (WIDTH - LEFT - 8.0);
        (x, HEIGHT - BOTTOM - y / top * (HEIGHT - BOTTOM - TOP))
    };
    let _ = write!(
        page,
        "<figure><h2>{}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let (_, y) = place((0.0, value));
        let end = WIDTH - 8.0;
        let _ = write!(
            page,
            "<line class=grid x1={LEFT} x2={end} y1={y:.1} y2={y:.1} /><text x={:.1} y={:.1} text-anchor=end>{}</text>",
            LEFT - 6.0,
            y + 4.0,
            short(value)
        );
        let at = right * f64::from(step) / 4.0;
        let (x, _) = place((at, 0.0));
        let anchor = if step == 4 { "end" } else { "middle" };
        let _ = write!(page, "<text x={x:.1} y={:.1} text-anchor={anchor}>{} {unit}</text>", HEIGHT - 6.0, short(at));
    }
    for line in lines {
        let _ = write!(page, "<path class={} d=\"", line.class);
        for (number, point) in line.values.iter().enumerate() {
            let (x, y) = place(*point);
            let _ = write!(page, "{}{x:.1} {y:.1}", if number == 0 { 'M' } else { 'L' });
        }
        *page += "\"/>";
    }
    *page += "</svg><figcaption>";
    for line in lines {
        let _ = write!(page, "<span class={}-ink>■ {}</span>", line.class, escape(line.name));
    }
    *page += "</figcaption></figure>";
}

/// The next of 1, 2, 5, 10 … times a power of ten.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(10.0 * power)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.1}M", value / 1e6),
        value if value >= 1e4 => format!("{:.0}k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        value => format!("{value:.3}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::Sample;

    #[test]
    fn the_page_has_plots_and_escapes() {
        let point =
            |at: f64| Point { at, open: 5, rate: 100.0, delays: [1.0, 2.0, 3.0], pss: 1 << 20, ..Point::default() };
        let outcome = Outcome {
            total: Sample::default(),
            seconds: 2.0,
            conns: 5,
            opening: 0.1,
            server: None,
            server_cpu: 0.0,
            own_cpu: 0.1,
            machine_cpu: 0.2,
            threads: 1,
            points: vec![point(1.0), point(2.0)],
        };
        let page = html("echo <b>", &outcome, &[("p99_ms < 5".to_owned(), 2.0, true)]);
        assert!(page.contains("echo &lt;b&gt;") && page.contains("p99_ms &lt; 5"));
        assert_eq!(page.matches("<svg").count(), 6);
        assert!(!page.contains("NaN") && !page.contains("http"));
    }

    #[test]
    fn axes_end_at_round_figures() {
        assert_eq!((ceiling(0.0), ceiling(3.0), ceiling(0.07), ceiling(100.0)), (1.0, 5.0, 0.1, 100.0));
    }
}
