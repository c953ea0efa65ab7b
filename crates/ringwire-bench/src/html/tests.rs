//! The page, read as a browser reads it.

use scraper::{Html, Selector};
use serde_json::{Value, json};

use super::render;
use crate::job::Protocol;
use crate::report::median::medians;
use crate::report::row::Row;
use crate::report::tests as example;

fn row(method: &str, payload_bytes: u64, run: u32, gigabytes: f64) -> Row {
    Row {
        method: method.into(),
        payload_bytes,
        run,
        payloads_per_s: gigabytes * 1e9 / payload_bytes as f64,
        bytes_per_s: gigabytes * 1e9,
        cpu_s_per_gb: 1.0 / gigabytes,
        copied_share: Some(0.0),
        requests_per_payload: 0.5,
        notifications_per_payload: 0.25,
        release_delay_us_p50: Some(55.0),
        ..example::row()
    }
}

/// A document of the rows that the benchmark itself writes.
fn document(rows: &[Row]) -> Value {
    json!({
        "schema": 1,
        "host": { "kernel": "6.18.44", "mtu": 1500, "notes": ["a tcpdump is running"] },
        "rows": rows,
        "medians": medians(rows),
    })
}

/// Two methods over two sizes: at 4 KiB far apart, at 1 MiB overlapping.
fn two_methods() -> Value {
    document(&[
        row("write", 4096, 0, 777.0),
        row("write", 4096, 1, 1.8),
        row("write", 4096, 2, 2.0),
        row("write", 4096, 3, 1.9),
        row("ringwire", 4096, 1, 40.0),
        row("ringwire", 4096, 2, 38.0),
        row("ringwire", 4096, 3, 42.0),
        row("write", 1 << 20, 1, 8.0),
        row("write", 1 << 20, 2, 9.0),
        row("ringwire", 1 << 20, 1, 8.5),
        row("ringwire", 1 << 20, 2, 9.5),
    ])
}

fn page(document: &Value) -> Html {
    Html::parse_document(&render(document).unwrap())
}

/// The texts of all elements that a selector finds, spaces made one.
fn texts(page: &Html, selector: &str) -> Vec<String> {
    let selector = Selector::parse(selector).unwrap();
    let text = |element: scraper::ElementRef| {
        let text: String = element.text().collect();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    page.select(&selector).map(text).collect()
}

fn count(page: &Html, selector: &str) -> usize {
    page.select(&Selector::parse(selector).unwrap()).count()
}

#[test]
fn a_parser_finds_nothing_wrong_with_the_page() {
    let page = page(&two_methods());
    assert_eq!(page.errors, Vec::<String>::new());
    assert_eq!(texts(&page, "h2"), ["Measured on", "TCP, perfect wire, shuffled"]);
    assert_eq!(texts(&page, "li"), ["a tcpdump is running"]);
}

#[test]
fn what_was_really_measured_can_be_shown() {
    // What README's figures are made of: medians, without their rows.
    let figures: Value =
        serde_json::from_str(include_str!("../../../../docs/figures.json")).unwrap();
    let measurements = figures["measurements"].as_array().unwrap();
    assert!(!measurements.is_empty());
    for measured in measurements {
        let page = page(measured);
        assert_eq!(page.errors, Vec::<String>::new());
        let text = page.root_element().text().collect::<String>();
        for median in measured["medians"].as_array().unwrap() {
            assert!(text.contains(median["method"].as_str().unwrap()), "{median}");
        }
        assert!(count(&page, "svg.chart") > 0, "{}", measured["command"]);
    }
}

#[test]
fn every_method_has_a_line_a_legend_and_a_row() {
    let page = page(&two_methods());
    assert_eq!(texts(&page, ".legend label"), ["ringwire", "write"]);
    assert_eq!(texts(&page, ".medians tbody th"), ["ringwire", "write"]);
    // Two charts of two lines with two points each.
    assert_eq!(count(&page, "svg.chart"), 2);
    assert_eq!(count(&page, ".chart .m0 .line"), 2);
    assert_eq!(count(&page, ".chart .m1 .band"), 2);
    assert_eq!(count(&page, ".chart .m1 .mark"), 4);
    // A drawing says what it is, a marker what it stands for.
    let titles = texts(&page, ".chart > title");
    assert_eq!(titles[0], "TCP, perfect wire, shuffled: Throughput");
    let points = texts(&page, ".chart .m0 title");
    assert_eq!(points[0], "ringwire, 4 KiB: 40.0 GB/s (38.0 to 42.0, 3 runs)");
}

#[test]
fn medians_have_their_ratio_and_it_is_in_brackets_where_runs_overlap() {
    let page = page(&two_methods());
    assert_eq!(texts(&page, ".medians .rate"), ["40.0", "9.00", "1.90", "8.50"]);
    assert_eq!(texts(&page, ".medians .ratio"), ["21.1×", "(1.06×)", "1×", "1×"]);
    assert_eq!(texts(&page, ".tile .times"), ["21.1×", "(1.06×)"]);
}

#[test]
fn trials_are_no_part_of_the_spread() {
    assert!(!render(&two_methods()).unwrap().contains("777"));
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let text = render(&two_methods()).unwrap();
    for foreign in ["http:", "https:", "//", "url(", "@import", "src=", "javascript:"] {
        assert!(!text.contains(foreign), "{foreign}");
    }
    let page = Html::parse_document(&text);
    assert_eq!(count(&page, "script, img, iframe, object, embed, base, form, a"), 0);
    assert_eq!(count(&page, "link:not([href='data:,'])"), 0);
    let policy = "meta[http-equiv='Content-Security-Policy'][content^=\"default-src 'none'\"]";
    assert_eq!(count(&page, policy), 1);
}

#[test]
fn names_from_outside_stay_text() {
    let method = "<script>alert(1)</script>\"'&";
    let mut rows = vec![row(method, 4096, 1, 3.0), row(method, 65_536, 1, 3.0)];
    rows.push(Row { bench: "</style><b>".into(), ..row("write", 1024, 1, 3.0) });
    let mut document = document(&rows);
    document["host"]["cpu"] = "<img onerror=x>".into();
    document["host"]["<k>"] = json!({ "<a>": ["</dd>", null, 1.5] });
    let page = page(&document);
    assert_eq!(page.errors, Vec::<String>::new());
    assert_eq!(count(&page, "script, img, b, k"), 0);
    assert_eq!(texts(&page, ".legend span"), [method]);
    assert_eq!(texts(&page, "dd")[1], "<img onerror=x>");
    assert_eq!(texts(&page, "dd")[3], "<a>: </dd>, unknown, 1.5");
}

#[test]
fn a_single_size_is_shown_as_bars() {
    let udp = |method, gigabytes| Row {
        bench: "udp".into(),
        protocol: Protocol::Udp,
        ..row(method, 1400, 1, gigabytes)
    };
    let page = page(&document(&[udp("write", 2.1), udp("ringwire", 70.0)]));
    assert_eq!(page.errors, Vec::<String>::new());
    assert_eq!(count(&page, ".chart .bar"), 4);
    assert_eq!(texts(&page, ".chart .name")[..2], ["ringwire", "write"]);
    // Datagrams are counted, not bytes.
    assert_eq!(texts(&page, ".chart .value")[..2], ["50.0 million/s", "1.50 million/s"]);
}

#[test]
fn an_unknown_method_has_a_look_of_its_own() {
    let rows = ["write", "tomorrow", "yesterday"].map(|m| row(m, 4096, 1, 1.0));
    let more = ["write", "tomorrow", "yesterday"].map(|m| row(m, 8192, 1, 1.0));
    let page = page(&document(&[rows, more].concat()));
    assert_eq!(texts(&page, ".legend label"), ["write", "tomorrow", "yesterday"]);
    assert_eq!(count(&page, ".chart .m1 .line"), 2);
    assert_eq!(count(&page, ".chart .m12 .line"), 2);
    assert_eq!(count(&page, ".chart .m13 .line"), 2);
}

#[test]
fn copying_wires_have_ratios_and_verdicts() {
    let wire = |payload_bytes, verdict| {
        json!({
            "wire": "loopback", "payload_bytes": payload_bytes, "verdict": verdict,
            "throughput_ratio": 0.999, "throughput_low": 0.985, "throughput_high": 1.012,
            "cpu_ratio": 1.001, "cpu_low": 0.99, "cpu_high": 1.013,
            "aa_low": 0.994, "aa_high": 1.006,
        })
    };
    let rows = [wire(64, "pass"), wire(4096, "fail"), wire(1 << 20, "cannot tell")];
    let page = page(&json!({ "schema": 1, "rows": rows, "medians": [] }));
    assert_eq!(page.errors, Vec::<String>::new());
    assert_eq!(texts(&page, ".pass, .fail, .unknown"), ["✓ pass", "✗ fail", "? cannot tell"]);
    assert_eq!(texts(&page, ".wires tbody td")[1], "0.999 (0.985 to 1.012)");
    assert_eq!(count(&page, ".wires .chart .mark"), 6);
    assert_eq!(count(&page, ".wires .chart .same"), 3);
}

#[test]
fn figures_that_are_missing_are_left_out() {
    let mut document = two_methods();
    for median in document["medians"].as_array_mut().unwrap() {
        median["cpu_s_per_gb"] = Value::Null;
    }
    document["rows"].as_array_mut().unwrap().push(json!({ "something": "else" }));
    document["medians"].as_array_mut().unwrap().push(json!(7));
    let page = page(&document);
    assert_eq!(count(&page, "svg.chart"), 1);
    let nothing = self::page(&json!({ "schema": 1 }));
    assert_eq!((nothing.errors.len(), count(&nothing, "svg")), (0, 0));
}

#[test]
fn another_schema_is_refused() {
    let refused = |document: Value| render(&document).unwrap_err().to_string();
    assert_eq!(
        refused(json!({ "schema": 2 })),
        "this is no document of `ringwire bench --json`: its schema is 2, and this program knows 1"
    );
    assert_eq!(
        refused(json!([])),
        "this is no document of `ringwire bench --json`: it has no schema number"
    );
}

/// The value of each custom property in a block of the style sheet.
fn colours(block: &str) -> Vec<(String, [f64; 3])> {
    let declarations = block.split(';').filter_map(|d| d.trim().split_once(": #"));
    let colour = |hex: &str| {
        [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()))
    };
    declarations.map(|(name, hex)| (name.trim().to_owned(), colour(hex.trim()))).collect()
}

/// Relative luminance, as WCAG 2 defines it.
fn luminance(colour: [f64; 3]) -> f64 {
    let linear = colour.map(|part| match part / 255.0 {
        part if part <= 0.040_45 => part / 12.92,
        part => ((part + 0.055) / 1.055).powf(2.4),
    });
    0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}

#[test]
fn colours_stand_out_from_the_page_light_and_dark() {
    let style = include_str!("style.css");
    let blocks: Vec<&str> =
        style.split(":root {").skip(1).map(|block| block.split('}').next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let colours = colours(block);
        let of = |name: &str| colours.iter().find(|(n, _)| n == name).map(|(_, c)| *c).unwrap();
        let contrast = |a, b| {
            let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
            if a > b { a / b } else { b / a }
        };
        for ground in ["--page", "--card"] {
            for text in ["--text", "--muted", "--good", "--bad"] {
                let found = contrast(of(text), of(ground));
                assert!(found >= 4.5, "{text} on {ground}: {found:.2}");
            }
        }
        for mark in 0..12 {
            let found = contrast(of(&format!("--c{mark}")), of("--page"));
            assert!(found >= 3.0, "--c{mark}: {found:.2}");
        }
    }
}

#[test]
fn what_grows_has_a_chart_and_a_table() {
    use crate::report::scale::{Each, Over, Scale, ScaleRow, tests};
    let mut rows = Vec::new();
    for (sockets, bare, ours) in [(1, 150.0, 250.0), (100, 900.0, 1_100.0), (10_000, 3e3, 4e3)] {
        rows.push(tests::row("minimal", sockets, 1, bare));
        rows.push(tests::row("ringwire", sockets, 1, ours));
    }
    let rings = |rings| ScaleRow { over: Over::Rings, rings, ..tests::row("ringwire", 12, 1, 9.0) };
    rows.extend([1, 2].map(rings));
    let looks = vec![tests::memory("ringwire", Each::Socket, 1, 612.0)];
    let mut report = crate::Report::new(example::host(), Vec::new());
    report.scale = Scale::new(rows, looks);
    let page = page(&serde_json::to_value(&report).unwrap());
    assert_eq!(page.errors, Vec::<String>::new());
    // Of what was measured only; and no comparison over sizes is made of it.
    assert_eq!(texts(&page, ".growth figcaption strong"), ["Over sockets", "Over rings"]);
    assert_eq!(count(&page, ".study"), 1);
    assert_eq!(texts(&page, ".growth .legend label"), ["ringwire", "minimal"]);
    assert_eq!(count(&page, ".growth .chart .m0 .mark"), 5);
    let title = "ringwire, sockets: 10,000: 4,000 ns (4,000 to 4,000, 1 runs)";
    assert!(texts(&page, ".chart .m0 title").contains(&title.to_owned()));
    let ticks = texts(&page, "#growth-sockets-title ~ .axes .middle");
    assert_eq!(ticks, ["1", "100", "10,000"]);
    let cells = texts(&page, ".growth tbody td");
    assert_eq!(cells[5..10], ["sockets: 1", "250", "1.67×", "100", "0.250"]);
    assert_eq!(cells[cells.len() - 4..], ["socket of 10,000", "612", "306", "–"]);
}
