//! The text format of Prometheus (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

/// The content type of a page of metrics.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric: its name, its type and its help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

impl Metric {
    /// A number that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        let kind = "counter";
        Self { name, kind, help }
    }

    /// A number that grows and shrinks.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        let kind = "gauge";
        Self { name, kind, help }
    }

    /// Counts of values by upper bounds.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        let kind = "histogram";
        Self { name, kind, help }
    }
}

/// A label: its name and its value.
pub type Label<'a> = (&'a str, &'a str);

/// The samples of a page. The samples of one metric are adjacent, in the order in which they were added; metrics are
/// sorted by name.
#[derive(Debug, Default)]
pub struct Page {
    metrics: BTreeMap<&'static str, (Metric, String)>,
}

impl Page {
    /// Adds a metric to the page, which may have no samples.
    pub fn describe(&mut self, metric: Metric) {
        self.samples(metric);
    }

    /// Adds a sample of a metric with its labels.
    pub fn add(&mut self, metric: Metric, labels: &[Label<'_>], value: impl Display) {
        write_sample(self.samples(metric), metric.name, "", labels, value);
    }

    /// Adds a sample with the time of its measurement, in milliseconds since the epoch.
    pub fn add_at(&mut self, metric: Metric, labels: &[Label<'_>], value: impl Display, time: i64) {
        self.add(metric, labels, format_args!("{value} {time}"));
    }

    /// Adds the samples of a histogram.
    pub fn add_histogram(&mut self, metric: Metric, labels: &[Label<'_>], histogram: &Histogram) {
        let samples = self.samples(metric);
        let mut bucket = |bound: &str, count: u64| {
            let labels = [labels, &[("le", bound)]].concat();
            write_sample(samples, metric.name, "_bucket", &labels, count);
        };
        let mut total = 0;
        for (count, bound) in histogram.counts.iter().zip(histogram.bounds) {
            total += count;
            bucket(&Bound(*bound).to_string(), total);
        }
        bucket("+Inf", histogram.count());
        write_sample(samples, metric.name, "_sum", labels, histogram.sum);
        write_sample(samples, metric.name, "_count", labels, histogram.count());
    }

    /// The page in Prometheus' text format, version 0.0.4.
    pub fn text(self) -> String {
        let mut text = String::new();
        for (Metric { name, kind, help }, samples) in self.metrics.into_values() {
            // Writing to a string does not fail.
            let _written = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"
            );
        }
        text
    }

    fn samples(&mut self, metric: Metric) -> &mut String {
        let entry = self.metrics.entry(metric.name);
        &mut entry.or_insert_with(|| (metric, String::new())).1
    }
}

fn write_sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[Label<'_>],
    value: impl Display,
) {
    out.push_str(name);
    out.push_str(suffix);
    for (index, (label, text)) in labels.iter().enumerate() {
        out.push_str(if index == 0 { "{" } else { "," });
        // Writing to a string does not fail.
        let _written = write!(out, "{label}=\"{}\"", Escaped(text));
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _written = writeln!(out, " {value}");
}

/// The value of a label, with quotes, backslashes and line breaks escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['\\', '"', '\n']) {
            let Some(special) = part
                .chars()
                .last()
                .filter(|c| matches!(c, '\\' | '"' | '\n'))
            else {
                f.write_str(part)?;
                continue;
            };
            f.write_str(&part[..part.len() - 1])?;
            f.write_str(match special {
                '\\' => "\\\\",
                '"' => "\\\"",
                _ => "\\n",
            })?;
        }
        Ok(())
    }
}

/// The number of values in each bucket, and their sum.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// The number of values in each bucket, between a bound and the bound before; the last number counts the values
    /// above all bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty histogram. The bounds must be in ascending order.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Adds a value to its bucket and to the sum.
    pub fn observe(&mut self, value: f64) {
        self.observe_times(value, 1);
    }

    /// Adds a value the given number of times.
    pub fn observe_times(&mut self, value: f64, times: u64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(index) {
            *count += times;
        }
        self.sum += value * times as f64;
    }

    /// The number of counted values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A bound in the format of Go, which writes small bounds as 1e-08.
struct Bound(f64);

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1e-4 {
            return write!(f, "{}", self.0);
        }
        let text = format!("{:e}", self.0);
        match text.split_once("e-") {
            Some((digits, power)) => write!(f, "{digits}e-{power:0>2}"),
            None => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let mut histogram = Histogram::new(&[1e-5, 0.5, 2.0]);
        for value in [0.5, 0.75, 3.0, 0.0] {
            histogram.observe(value);
        }
        let mut page = Page::default();
        page.add_histogram(Metric::histogram("x", "X."), &[("a", "b")], &histogram);
        assert_eq!(
            page.text(),
            "# HELP x X.\n# TYPE x histogram\n\
             x_bucket{a=\"b\",le=\"1e-05\"} 1\nx_bucket{a=\"b\",le=\"0.5\"} 2\n\
             x_bucket{a=\"b\",le=\"2\"} 3\nx_bucket{a=\"b\",le=\"+Inf\"} 4\n\
             x_sum{a=\"b\"} 4.25\nx_count{a=\"b\"} 4\n"
        );
    }

    #[test]
    fn samples_of_a_metric_stand_together() {
        let (a, b) = (Metric::gauge("a", "A."), Metric::counter("b", "B."));
        let mut page = Page::default();
        page.add(b, &[("x", "1")], 1);
        page.describe(Metric::gauge("c", "C."));
        page.add(a, &[], 0.5);
        page.add_at(b, &[("x", "2"), ("y", "3")], 2, 1000);
        assert_eq!(
            page.text(),
            "# HELP a A.\n# TYPE a gauge\na 0.5\n\
             # HELP b B.\n# TYPE b counter\nb{x=\"1\"} 1\nb{x=\"2\",y=\"3\"} 2 1000\n\
             # HELP c C.\n# TYPE c gauge\n"
        );
    }

    #[test]
    fn values_of_labels_are_escaped() {
        let mut page = Page::default();
        page.add(Metric::gauge("a", "A."), &[("x", "q\"b\\n\né")], 1);
        assert!(page.text().ends_with("a{x=\"q\\\"b\\\\n\\né\"} 1\n"));
    }
}
