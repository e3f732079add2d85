//! Hit ratio against capacity, as a picture that any browser shows.
//!
//! Capacities are drawn on a logarithmic axis: each doubling is worth about the same.

use std::fmt::Write;

/// One policy's line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it is called.
    pub name: String,
    /// Capacity and hit ratio, 0 to 1, by growing capacity.
    pub points: Vec<(f64, f64)>,
}

/// A chart of several lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What is drawn.
    pub title: String,
    /// What capacities are counted in.
    pub unit: String,
    /// The lines, all over the same capacities.
    pub lines: Vec<Line>,
}

impl Chart {
    /// The picture as SVG.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let log = |capacity: f64| capacity.max(f64::MIN_POSITIVE).log2();
        let first = points().map(|&(capacity, _)| log(capacity)).fold(f64::INFINITY, f64::min);
        let last = points().map(|&(capacity, _)| log(capacity)).fold(f64::NEG_INFINITY, f64::max);
        let span = if last > first { last - first } else { 1.0 };
        let x = |capacity: f64| LEFT + (log(capacity) - first) / span * PLOT_WIDTH;
        let y = |ratio: f64| TOP + (1.0 - ratio) * PLOT_HEIGHT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        text(&mut svg, LEFT, 20.0, "start", &self.title);
        for percent in (0..=100).step_by(20) {
            let (at, end) = (y(f64::from(percent) / 100.0), LEFT + PLOT_WIDTH);
            stroke(&mut svg, &format!("{LEFT:.1},{at:.1} {end:.1},{at:.1}"), "#ddd", 1);
            text(&mut svg, LEFT - 6.0, at + 4.0, "end", &format!("{percent} %"));
        }
        for &(capacity, _) in self.lines.first().map_or(&[][..], |line| &line.points) {
            text(&mut svg, x(capacity), HEIGHT - 30.0, "middle", &format!("{capacity}"));
        }
        text(&mut svg, LEFT + PLOT_WIDTH / 2.0, HEIGHT - 10.0, "middle", &self.unit);
        for ((line, color), row) in self.lines.iter().zip(COLORS.iter().cycle()).zip(0u16..) {
            let corners =
                line.points.iter().map(|&(c, ratio)| format!("{:.1},{:.1}", x(c), y(ratio)));
            stroke(&mut svg, &corners.collect::<Vec<_>>().join(" "), color, 2);
            let (left, at) = (LEFT + PLOT_WIDTH + 16.0, TOP + 18.0 * (f64::from(row) + 1.0));
            let key = format!("{left:.1},{at:.1} {:.1},{at:.1}", left + 20.0);
            stroke(&mut svg, &key, color, 2);
            text(&mut svg, left + 26.0, at + 4.0, "start", &line.name);
        }
        svg + "</svg>\n"
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>")
        .expect("text grows without limit");
}

fn stroke(svg: &mut String, corners: &str, color: &str, width: u8) {
    writeln!(
        svg,
        "<polyline points=\"{corners}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\"/>"
    )
    .expect("text grows without limit");
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 36.0;
const PLOT_WIDTH: f64 = 540.0;
const PLOT_HEIGHT: f64 = 320.0;
/// Told apart by those who do not tell red from green (Okabe and Ito).
const COLORS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_and_named_inside_the_picture() {
        let line = |name: &str, ratios: [f64; 2]| Line {
            name: name.to_owned(),
            points: vec![(1.0, ratios[0]), (50.0, ratios[1])],
        };
        let lines = vec![line("lru", [0.0, 0.5]), line("a<b", [0.25, 1.0])];
        let svg = Chart { title: "hits & more".into(), unit: "%".into(), lines }.svg();
        assert!(svg.contains("points=\"60.0,356.0 600.0,196.0\""), "{svg}");
        assert!(svg.contains("points=\"60.0,276.0 600.0,36.0\""), "{svg}");
        for name in [">lru<", ">a&lt;b<", ">hits &amp; more<"] {
            assert!(svg.contains(name), "{name} in {svg}");
        }
    }

    #[test]
    fn one_capacity_is_a_picture_too() {
        let lines = vec![Line { name: "lru".into(), points: vec![(5.0, 0.5)] }];
        let svg = Chart { title: String::new(), unit: String::new(), lines }.svg();
        assert!(svg.contains("points=\"60.0,196.0\""), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
