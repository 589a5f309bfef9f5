//! Line plots as SVG.

use std::fmt::Write as _;

use crate::results::Curve;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 50.0;
/// Height of a line of the legend.
const LINE: f64 = 18.0;
/// Colours that are distinguishable with colour blindness (Okabe and Ito).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];

/// Plot of several curves.
pub struct Plot<'a> {
    /// Title.
    pub title: &'a str,
    /// Name of the horizontal axis.
    pub x: &'a str,
    /// Name of the vertical axis.
    pub y: &'a str,
    /// Whether the vertical axis is logarithmic.
    pub logarithmic: bool,
    /// Curves.
    pub curves: &'a [Curve],
}

/// Maps numbers to positions on an axis.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.logarithmic { value.max(self.low).log10() } else { value };
        let share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low));
        self.from + share * (self.to - self.from)
    }

    /// Ticks: about six round numbers, or powers of ten.
    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let (first, last) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
            return (first..=last).map(|power| 10_f64.powi(power)).collect();
        }
        let step = round_step((self.high - self.low) / 6.0);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|n| n as f64 * step).collect()
    }
}

/// Returns the smallest of 1, 2, 5, 10, 20, … that is not smaller than the value.
fn round_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

impl Plot<'_> {
    /// Returns the SVG document.
    pub fn to_svg(&self) -> String {
        let legend = LINE * self.curves.len() as f64;
        let bottom = HEIGHT - BOTTOM;
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
        let x = Axis {
            low: points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min).min(1e9),
            high: points().map(|(x, _)| *x).fold(0.0, f64::max).max(1e-9),
            logarithmic: false,
            from: LEFT,
            to: WIDTH - RIGHT,
        };
        let x = Axis { low: if x.low < x.high { x.low } else { 0.0 }, ..x };
        let y = if self.logarithmic {
            let lowest =
                points().map(|(_, y)| *y).filter(|y| *y > 0.0).fold(f64::INFINITY, f64::min).min(highest.max(1.0));
            let power = |value: f64| 10_f64.powf(value);
            let (low, high) = (power(lowest.log10().floor()), power(highest.max(lowest * 1.001).log10().ceil()));
            Axis { low, high, logarithmic: true, from: bottom, to: TOP }
        } else {
            Axis { low: 0.0, high: highest.max(1e-9) * 1.05, logarithmic: false, from: bottom, to: TOP }
        };

        let total = HEIGHT + legend + 10.0;
        let mut svg = String::new();
        // Writing into a String cannot fail.
        let _ = writeln!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" font-family="sans-serif" font-size="13">"#
        );
        let _ = writeln!(svg, r#"<rect width="{WIDTH}" height="{total}" fill="white"/>"#);
        let _ = writeln!(svg, r#"<text x="10" y="20" font-size="16">{}</text>"#, escape(self.title));
        self.draw_axes(&mut svg, &x, &y);
        for (number, curve) in self.curves.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            // More curves than colours: dashed lines.
            let dashes = if number < COLOURS.len() { "" } else { r#" stroke-dasharray="6 4""# };
            let line: Vec<String> =
                curve.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x.place(*px), y.place(*py))).collect();
            let _ = writeln!(
                svg,
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>"#,
                line.join(" ")
            );
            let at = HEIGHT + LINE * number as f64;
            let (end, text) = (LEFT + 30.0, LEFT + 38.0);
            let _ = writeln!(
                svg,
                r#"<line x1="{LEFT}" y1="{at}" x2="{end}" y2="{at}" stroke="{colour}" stroke-width="2"{dashes}/>"#
            );
            let _ = writeln!(svg, r#"<text x="{text}" y="{}">{}</text>"#, at + 4.0, escape(&curve.name));
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axes(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = writeln!(svg, r##"<line x1="{LEFT}" y1="{at:.1}" x2="{right}" y2="{at:.1}" stroke="#dddddd"/>"##);
            let label = tick_label(tick);
            let _ = writeln!(svg, r#"<text x="{}" y="{:.1}" text-anchor="end">{label}</text>"#, LEFT - 8.0, at + 4.0);
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            let label = tick_label(tick);
            let _ = writeln!(
                svg,
                r#"<line x1="{at:.1}" y1="{bottom}" x2="{at:.1}" y2="{}" stroke="black"/>"#,
                bottom + 5.0
            );
            let _ = writeln!(svg, r#"<text x="{at:.1}" y="{}" text-anchor="middle">{label}</text>"#, bottom + 20.0);
        }
        let _ = writeln!(svg, r#"<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="black"/>"#);
        let _ = writeln!(svg, r#"<text x="{right}" y="{}" text-anchor="end">{}</text>"#, bottom + 38.0, escape(self.x));
        let _ = writeln!(svg, r#"<text x="10" y="{}">{}</text>"#, TOP - 12.0, escape(self.y));
    }
}

/// Formats a number without trailing digits.
fn tick_label(tick: f64) -> String {
    let digits = format!("{tick:.3}");
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, points: &[(f64, f64)]) -> Curve {
        Curve { plot: String::new(), name: name.into(), points: points.to_vec() }
    }

    #[test]
    fn lines() {
        let curves = [
            curve("one & all", &[(0.0, 0.0), (2.0, 60.0), (4.0, 100.0)]),
            curve("the other", &[(0.0, 0.0), (10.0, 100.0)]),
        ];
        let plot = Plot { title: "a < b", x: "seconds", y: "customers", logarithmic: false, curves: &curves };
        insta::assert_snapshot!(plot.to_svg());
    }

    #[test]
    fn powers_of_ten() {
        let curves = [curve("latency", &[(1.0, 5.0), (50.0, 40.0), (100.0, 900.0)])];
        let plot = Plot { title: "latency", x: "percentile", y: "ms", logarithmic: true, curves: &curves };
        insta::assert_snapshot!(plot.to_svg());
    }

    #[test]
    fn nothing_and_one_point_are_drawn_without_nonsense() {
        for curves in [vec![], vec![curve("a", &[])], vec![curve("a", &[(1.0, 0.0)])]] {
            for logarithmic in [false, true] {
                let svg = Plot { title: "", x: "", y: "", logarithmic, curves: &curves }.to_svg();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn labels() {
        assert_eq!([0.0, 0.5, 1.0, 20.0, 1000.0].map(tick_label), ["0", "0.5", "1", "20", "1000"]);
    }

    #[test]
    fn round_numbers() {
        assert_eq!([0.7, 1.0, 1.3, 3.0, 7.0, 70.0].map(round_step), [1.0, 1.0, 2.0, 5.0, 10.0, 100.0]);
    }
}
