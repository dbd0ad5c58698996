//! The two text formats of Prometheus: the classic one (0.0.4) and OpenMetrics 1.0.
//!
//! Definitions: <https://prometheus.io/docs/instrumenting/exposition_formats/> and
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>. node_exporter's textfile collector
//! reads only the classic one.

use std::fmt::Write as _;

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text, version 0.0.4.
    Classic,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
}

/// The type of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// A metric with its samples. The name has no `_total` or `_info`.
#[derive(Debug, Clone)]
pub(super) struct Family {
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    suffix: &'static str,
    labels: Vec<(&'static str, String)>,
    value: String,
}

impl Family {
    pub(super) fn new(name: &'static str, kind: MetricKind, help: &'static str) -> Self {
        Self {
            name,
            kind,
            help,
            samples: Vec::new(),
        }
    }

    /// Adds a sample without labels.
    pub(super) fn value(self, value: impl ToString) -> Self {
        self.sample(Vec::new(), value)
    }

    /// Adds a sample with labels.
    pub(super) fn sample(self, labels: Vec<(&'static str, String)>, value: impl ToString) -> Self {
        let suffix = self.kind.suffix();
        self.part(suffix, labels, value)
    }

    /// Adds a sample of a histogram: a bucket, the sum, or the count.
    pub(super) fn part(
        mut self,
        suffix: &'static str,
        labels: Vec<(&'static str, String)>,
        value: impl ToString,
    ) -> Self {
        self.samples.push(Sample {
            suffix,
            labels,
            value: value.to_string(),
        });
        self
    }

    fn write(&self, out: &mut String, format: Format) {
        // The classic format has the suffix in the family's name, OpenMetrics only in the sample's.
        let name = match format {
            Format::Classic => format!("{}{}", self.name, self.kind.suffix()),
            Format::OpenMetrics => self.name.to_owned(),
        };
        let kind = self.kind.name(format);
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", self.help);
        for sample in &self.samples {
            let _ = write!(out, "{}{}", self.name, sample.suffix);
            for (index, (label, value)) in sample.labels.iter().enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                let _ = write!(out, "{before}{label}=\"{}\"", escaped(value));
            }
            let after = if sample.labels.is_empty() { "" } else { "}" };
            let _ = writeln!(out, "{after} {}", sample.value);
        }
    }
}

impl MetricKind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }

    fn name(self, format: Format) -> &'static str {
        match (self, format) {
            (Self::Counter, _) => "counter",
            (Self::Info, Format::OpenMetrics) => "info",
            (Self::Info, Format::Classic) | (Self::Gauge, _) => "gauge",
            (Self::Histogram, _) => "histogram",
        }
    }
}

impl Format {
    /// Encodes metrics in this format.
    pub(super) fn encode(self, families: &[Family]) -> String {
        let mut out = String::new();
        for family in families {
            family.write(&mut out, self);
        }
        if self == Self::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    /// Returns the value of `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Selects a format by the value of `Accept` (RFC 9110, section 12.5.1): OpenMetrics if it is
    /// named and preferred, else the classic format, which every scraper reads.
    pub(super) fn accepted(accept: &str) -> Self {
        let (mut open, mut classic) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q="));
            let quality: f32 = quality.map_or(1.0, |text| text.parse().unwrap_or(0.0));
            let best = match media.as_str() {
                "application/openmetrics-text" => &mut open,
                "text/plain" | "text/*" | "*/*" => &mut classic,
                _ => continue,
            };
            *best = quality.max(*best);
        }
        match open > 0.0 && open >= classic {
            true => Self::OpenMetrics,
            false => Self::Classic,
        }
    }
}

/// Escapes the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_has_its_own_names_and_end() {
        let families = [
            Family::new("x_build", MetricKind::Info, "Version.")
                .sample(vec![("version", "1".into())], 1),
            Family::new("x_repairs", MetricKind::Counter, "Repairs.")
                .sample(vec![("process", "a\"b\\c\n".into()), ("n", "2".into())], 3),
            Family::new("x_up", MetricKind::Gauge, "Up.").value(1),
            Family::new("x_seconds", MetricKind::Histogram, "Time.")
                .part("_bucket", vec![("le", "+Inf".into())], 2)
                .part("_sum", Vec::new(), 0.5)
                .part("_count", Vec::new(), 2),
        ];
        let rest = "# HELP x_up Up.\n# TYPE x_up gauge\nx_up 1\n\
                    # HELP x_seconds Time.\n# TYPE x_seconds histogram\n\
                    x_seconds_bucket{le=\"+Inf\"} 2\nx_seconds_sum 0.5\nx_seconds_count 2\n";
        let classic = "# HELP x_build_info Version.\n# TYPE x_build_info gauge\n\
                       x_build_info{version=\"1\"} 1\n\
                       # HELP x_repairs_total Repairs.\n# TYPE x_repairs_total counter\n\
                       x_repairs_total{process=\"a\\\"b\\\\c\\n\",n=\"2\"} 3\n";
        let open = "# HELP x_build Version.\n# TYPE x_build info\nx_build_info{version=\"1\"} 1\n\
                    # HELP x_repairs Repairs.\n# TYPE x_repairs counter\n\
                    x_repairs_total{process=\"a\\\"b\\\\c\\n\",n=\"2\"} 3\n";
        assert_eq!(
            Format::Classic.encode(&families),
            format!("{classic}{rest}")
        );
        assert_eq!(
            Format::OpenMetrics.encode(&families),
            format!("{open}{rest}# EOF\n")
        );
    }

    #[test]
    fn the_format_is_the_one_that_the_client_prefers() {
        for (accept, want) in [
            ("", Format::Classic),
            ("*/*", Format::Classic),
            ("text/plain;version=0.0.4", Format::Classic),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "Application/OpenMetrics-Text; version=1.0.0",
                Format::OpenMetrics,
            ),
            // The requests of Prometheus 2 and 3.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.3, text/plain;q=0.7",
                Format::Classic,
            ),
            ("application/openmetrics-text;q=0, */*", Format::Classic),
            ("application/openmetrics-text;q=0", Format::Classic),
            ("application/openmetrics-text;q=high", Format::Classic),
            ("text/html, application/json", Format::Classic),
        ] {
            assert_eq!(Format::accepted(accept), want, "{accept}");
        }
    }
}
