//! The page: text, a legend, and the lanes as inline SVG, with nothing that has to be loaded.

use std::fmt::Write;

use super::lanes::{Bar, Lane, Moment, Tone};
use super::{Picture, Suspicion};

/// Sizes, in pixels.
const ROW: usize = 16;
const ROW_GAP: usize = 2;
const LANE_GAP: usize = 12;
const HEAD: usize = 58;
const FOOT: usize = 24;
const NAMES: usize = 92;
const WIDTH_MIN: f64 = 1_000.0;
const WIDTH_MAX: f64 = 24_000.0;
/// A bar is never narrower, so that it is seen.
const BAR_MIN: f64 = 2.0;
/// The median of all calls is this wide, if the bounds allow it.
const CALL: f64 = 24.0;
/// Between two marks of the axis at least.
const TICK_MIN: f64 = 90.0;
/// A letter of a label.
const LETTER: f64 = 6.0;

/// Fewer letters of a label say nothing.
const LABEL_LETTERS_MIN: usize = 4;

/// Letters of a failure beside its line, and of any one text of the page.
const FAILURE_LETTERS: usize = 110;
const TEXT_LETTERS_MAX: usize = 4_000;

const STYLE: &str = "\
text{font:10px ui-monospace,Menlo,Consolas,monospace;fill:#1d2733}\
.name{font-size:11px;font-weight:600}.lane{fill:#f5f7f9}.tick{stroke:#d5dbe1}.ms{fill:#66727f}\
.answered{fill:#8fc7a1}.failed{fill:#f0b35e}.unknown{fill:#c3a3dd}.up{fill:#cfd8e1}.paused{fill:#8d9aa8}\
.leads{fill:#9cc3ea}.aside{fill:#e6d27a}.fault{fill:#f2a89b}.ended{fill:#b5301f}\
.related{stroke:#a33a10;stroke-width:1.5}.blamed{stroke:#c00000;stroke-width:3}\
.phase{stroke:#93a0ad;stroke-dasharray:3 3}.wrong{stroke:#c00000;stroke-width:2}.says{fill:#c00000;font-weight:600}";

/// The page of a picture.
pub(super) fn page(picture: &Picture) -> String {
    let scale = Scale::of(picture);
    let title = escaped(&picture.title);
    let notes = picture
        .notes
        .iter()
        .map(|note| format!("<p>{}</p>", escaped(note)));
    let failure = picture.failure.as_ref().map(|failure| {
        let at_ms = failure.at_ns as f64 / 1e6;
        let text = escaped(&failure.text);
        format!("<pre class=\"failure\">at {at_ms:.3} ms: {text}</pre>")
    });
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\
         body{{font:13px system-ui,sans-serif;margin:16px;color:#1d2733}}h1{{font-size:17px}}p{{margin:4px 0}}\
         .failure{{color:#c00000;white-space:pre-wrap}}.chart{{display:flex;overflow-x:auto;border:1px solid #d5dbe1}}\
         .names{{position:sticky;left:0;background:#fff;flex:none}}.plot{{flex:none}}</style></head>\n\
         <body><h1>{title}</h1>{notes}{failure}{legend}\n<div class=\"chart\">{names}\n{plot}</div>\n\
         <p>Time runs to the right, in ms. Point at a bar to read what it is.</p></body></html>\n",
        notes = notes.collect::<String>(),
        failure = failure.unwrap_or_default(),
        legend = legend(),
        names = names(picture),
        plot = plot(picture, &scale),
    )
}

/// Where moments are.
struct Scale {
    from_ns: u64,
    span_ns: u64,
    width: f64,
}

impl Scale {
    fn of(picture: &Picture) -> Self {
        // Some room behind the last moment, so that it is seen.
        let span_ns = picture.until_ns.saturating_sub(picture.from_ns).max(1_000);
        let span_ns = span_ns.saturating_add(span_ns / 50);
        let bars = picture.lanes.iter().flat_map(|lane| &lane.bars);
        let calls = bars.filter(|bar| matches!(bar.tone, Tone::Answered | Tone::Failed));
        let mut lengths: Vec<u64> = calls.map(|bar| bar.until_ns - bar.from_ns).collect();
        lengths.sort_unstable();
        let median_ns = lengths.get(lengths.len() / 2).copied().unwrap_or(0).max(1);
        let width = (span_ns as f64 / median_ns as f64 * CALL).clamp(WIDTH_MIN, WIDTH_MAX);
        Self {
            from_ns: picture.from_ns,
            span_ns,
            width,
        }
    }

    /// Where a moment is; what is not drawn is at the nearer end.
    fn x(&self, at_ns: u64) -> f64 {
        let since_ns = at_ns.saturating_sub(self.from_ns) as f64;
        (since_ns / self.span_ns as f64 * self.width).min(self.width)
    }

    /// The time between two marks of the axis: one, two or five times a power of ten.
    fn tick_ns(&self) -> u64 {
        let least_ns = TICK_MIN / self.width * self.span_ns as f64;
        let mut power_ns = 1;
        loop {
            for times in [1, 2, 5] {
                if (power_ns * times) as f64 >= least_ns {
                    return power_ns * times;
                }
            }
            power_ns *= 10;
        }
    }
}

fn height_of(lane: &Lane) -> usize {
    lane.rows.max(1) * (ROW + ROW_GAP)
}

/// The lanes and where each begins, and where they end.
fn placed(picture: &Picture) -> (Vec<(&Lane, usize)>, usize) {
    let mut y = HEAD;
    let lanes = picture.lanes.iter().map(|lane| {
        let top = y;
        y += height_of(lane) + LANE_GAP;
        (lane, top)
    });
    let lanes = lanes.collect();
    (lanes, y)
}

fn names(picture: &Picture) -> String {
    let (lanes, end) = placed(picture);
    let mut svg = opened("names", NAMES as f64, end + FOOT);
    for (lane, y) in lanes {
        let (y, name) = (y + 12, escaped(&lane.name));
        put(
            &mut svg,
            format_args!("<text class=\"name\" x=\"4\" y=\"{y}\">{name}</text>"),
        );
    }
    svg + "</svg>"
}

fn plot(picture: &Picture, scale: &Scale) -> String {
    let (lanes, end) = placed(picture);
    let mut svg = opened("plot", scale.width, end + FOOT);
    put(&mut svg, format_args!("<style>{STYLE}</style>"));
    for &(lane, y) in &lanes {
        let (width, height) = (scale.width, height_of(lane));
        put(
            &mut svg,
            format_args!(
                "<rect class=\"lane\" y=\"{y}\" width=\"{width:.0}\" height=\"{height}\"/>"
            ),
        );
    }
    axis(&mut svg, scale, end);
    for phase in &picture.phases {
        line(&mut svg, scale, phase, "phase", end);
        let x = scale.x(phase.at_ns) + 3.0;
        let text = escaped(&phase.text);
        put(
            &mut svg,
            format_args!("<text x=\"{x:.1}\" y=\"26\">{text}</text>"),
        );
    }
    for (lane, y) in lanes {
        for (bar, end_ns) in with_room(lane) {
            draw(&mut svg, scale, bar, end_ns, y);
        }
    }
    if let Some(failure) = &picture.failure {
        line(&mut svg, scale, failure, "wrong", end);
        says(&mut svg, scale, failure);
    }
    svg + "</svg>"
}

fn opened(class: &str, width: f64, height: usize) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"{class}\" width=\"{width:.0}\" height=\"{height}\">"
    )
}

fn axis(svg: &mut String, scale: &Scale, end: usize) {
    let tick_ns = scale.tick_ns();
    let until_ns = scale.from_ns.saturating_add(scale.span_ns);
    let first = scale.from_ns.div_ceil(tick_ns);
    let ticks = (first..=until_ns / tick_ns).map(|number| number * tick_ns);
    for at_ns in ticks {
        let (x, ms) = (scale.x(at_ns), at_ns as f64 / 1e6);
        put(
            svg,
            format_args!(
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"46\" y2=\"{end}\"/>"
            ),
        );
        for y in [42, end + 14] {
            put(
                svg,
                format_args!("<text class=\"ms\" x=\"{x:.1}\" y=\"{y}\">{ms}</text>"),
            );
        }
    }
}

fn line(svg: &mut String, scale: &Scale, moment: &Moment, class: &str, end: usize) {
    let x = scale.x(moment.at_ns);
    put(
        svg,
        format_args!("<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"4\" y2=\"{end}\"/>"),
    );
}

/// What went wrong, beside its line, on the side on which there is room.
fn says(svg: &mut String, scale: &Scale, failure: &Moment) {
    let x = scale.x(failure.at_ns);
    let (x, anchor) = if x > scale.width / 2.0 {
        (x - 4.0, "end")
    } else {
        (x + 4.0, "start")
    };
    let line = failure.text.lines().next().unwrap_or_default();
    let text = escaped(&shortened(line, FAILURE_LETTERS));
    put(
        svg,
        format_args!(
            "<text class=\"says\" x=\"{x:.1}\" y=\"12\" text-anchor=\"{anchor}\">{text}</text>"
        ),
    );
}

/// The bars of a lane in the order of time, and up to where there is room for the label of each: its end or, for a moment,
/// anywhere; but not beyond the next bar of the row.
fn with_room(lane: &Lane) -> Vec<(&Bar, u64)> {
    let mut bars: Vec<&Bar> = lane.bars.iter().collect();
    bars.sort_by_key(|bar| bar.from_ns);
    let mut next_ns = vec![u64::MAX; lane.rows];
    let mut with_room: Vec<(&Bar, u64)> = Vec::with_capacity(bars.len());
    for bar in bars.into_iter().rev() {
        let is_moment =
            matches!(bar.tone, Tone::Fault | Tone::Ended) && bar.from_ns == bar.until_ns;
        let end_ns = if is_moment { u64::MAX } else { bar.until_ns };
        with_room.push((bar, end_ns.min(next_ns[bar.row])));
        next_ns[bar.row] = bar.from_ns;
    }
    with_room.reverse();
    with_room
}

fn draw(svg: &mut String, scale: &Scale, bar: &Bar, room_ns: u64, lane_y: usize) {
    let x = scale.x(bar.from_ns);
    let width = (scale.x(bar.until_ns) - x).max(BAR_MIN);
    let y = lane_y + bar.row * (ROW + ROW_GAP) + 1;
    let class = bar.tone.class();
    let marked = match bar.suspicion {
        Some(Suspicion::Blamed) => " blamed",
        Some(Suspicion::Related) => " related",
        None => "",
    };
    let title = escaped(&bar.title);
    put(
        svg,
        format_args!(
            "<g><title>{title}</title><rect class=\"{class}{marked}\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{ROW}\" rx=\"2\"/>"
        ),
    );
    let text_x = x + BAR_MIN + 1.0;
    let text = fitting(&bar.label, scale.x(room_ns) - text_x - 1.0);
    if !text.is_empty() {
        let (text, text_y) = (escaped(&text), y + 12);
        put(
            svg,
            format_args!("<text x=\"{text_x:.1}\" y=\"{text_y}\">{text}</text>"),
        );
    }
    svg.push_str("</g>");
}

fn legend() -> String {
    let mut svg = opened("legend", WIDTH_MIN, 44);
    let entries = Tone::ALL
        .iter()
        .map(|(_, class, meaning)| (*class, *meaning));
    let marks = [
        ("related", "concerns what failed"),
        ("blamed", "cannot be right"),
    ];
    let (mut x, mut y) = (0.0, 4);
    for (class, meaning) in entries.chain(marks) {
        let length = 24.0 + meaning.len() as f64 * LETTER + 14.0;
        if x + length > WIDTH_MIN {
            (x, y) = (0.0, y + 20);
        }
        let fill = if marks.iter().any(|mark| mark.0 == class) {
            " fill=\"#fff\""
        } else {
            ""
        };
        let (text_x, text_y) = (x + 20.0, y + 10);
        put(
            &mut svg,
            format_args!(
                "<rect class=\"{class}\"{fill} x=\"{x:.0}\" y=\"{y}\" width=\"14\" height=\"12\" rx=\"2\"/><text x=\"{text_x:.0}\" y=\"{text_y}\">{meaning}</text>"
            ),
        );
        x += length;
    }
    svg + "</svg>"
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("a string takes everything");
}

/// As much of a label as there is room for; nothing, if that says nothing.
fn fitting(label: &str, width: f64) -> String {
    let ends = (1..=label.chars().count()).map(|letters| letters as f64 * LETTER);
    let letters = ends.take_while(|&end| end <= width).count();
    if letters < LABEL_LETTERS_MIN {
        return String::new();
    }
    shortened(label, letters)
}

fn shortened(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let kept = text.chars().take(letters.saturating_sub(1));
    kept.chain(['\u{2026}']).collect()
}

/// Text as it may stand anywhere in the page, also between quotes.
fn escaped(text: &str) -> String {
    let text = shortened(text, TEXT_LETTERS_MAX);
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push('\n'),
            // Most of the others may not be in a page at all.
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}
