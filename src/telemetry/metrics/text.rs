//! The text of a scrape: OpenMetrics 1.0, written by prometheus-client's encoder.
//!
//! What is written is held to `names`: as many labels as a metric has, and in its kind.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as WrittenUnit};
use smallvec::SmallVec;

use super::histogram::{Bounds, Histogram};
use super::names::{Kind, Metric, Unit};

/// What a client is told that [`write()`]'s text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Something that fills a sheet, once for each scrape.
pub trait Source: Send + Sync + fmt::Debug + 'static {
    /// # Errors
    /// Those of the sheet.
    fn fill(&self, sheet: &mut Sheet<'_>) -> fmt::Result;
}

/// The whole text, to its `# EOF`.
///
/// # Errors
/// The source's own.
pub fn write(source: impl Source) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Written(source)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Written<S>(S);

impl<S: Source> Collector for Written<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.fill(&mut Sheet { encoder })
    }
}

/// What is being written.
#[derive(Debug)]
pub struct Sheet<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Sheet<'_> {
    /// One metric with all its samples.
    ///
    /// # Errors
    /// The encoder's, and those of `samples`.
    pub fn metric(&mut self, metric: &Metric, samples: impl FnOnce(&mut Samples<'_>) -> fmt::Result) -> fmt::Result {
        let (unit, suffix) = match metric.unit {
            Unit::None => (None, ""),
            Unit::Seconds => (Some(WrittenUnit::Seconds), "_seconds"),
            Unit::Bytes => (Some(WrittenUnit::Bytes), "_bytes"),
        };
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let name = metric.name.strip_suffix(suffix).unwrap_or(metric.name);
        let encoder = self.encoder.encode_descriptor(name, metric.help, unit.as_ref(), kind)?;
        samples(&mut Samples { metric, encoder })
    }

    /// A metric without labels.
    ///
    /// # Errors
    /// The encoder's.
    pub fn value(&mut self, metric: &Metric, value: impl Into<Value>) -> fmt::Result {
        self.metric(metric, |samples| samples.value(&[], value))
    }

    /// The same, where there is something to tell.
    ///
    /// # Errors
    /// The encoder's.
    pub fn known(&mut self, metric: &Metric, value: Option<u64>) -> fmt::Result {
        self.metric(metric, |samples| value.map_or(Ok(()), |value| samples.value(&[], value)))
    }
}

/// What a counter or a gauge says.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// The samples of one metric.
pub struct Samples<'a> {
    metric: &'a Metric,
    encoder: MetricEncoder<'a>,
}

impl Samples<'_> {
    /// One sample of a counter, a gauge or (with whatever value) an info.
    ///
    /// # Errors
    /// The encoder's.
    pub fn value(&mut self, labels: &[&str], value: impl Into<Value>) -> fmt::Result {
        let (metric, value) = (self.metric, value.into());
        self.with(labels, |encoder, labels| match (metric.kind, value) {
            (Kind::Counter, Value::Whole(value)) => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
            (Kind::Counter, Value::Real(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            // A gauge of the encoder's is signed.
            (Kind::Gauge, Value::Whole(value)) => encoder.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
            (Kind::Gauge, Value::Real(value)) => encoder.encode_gauge(&value),
            (Kind::Info, _) => encoder.encode_info(&labels),
            (Kind::Histogram, _) => Err(fmt::Error),
        })
    }

    /// The same where there is anything to tell: of combinations most never come about.
    ///
    /// # Errors
    /// The encoder's.
    pub fn count(&mut self, labels: &[&str], count: u64) -> fmt::Result {
        if count == 0 { Ok(()) } else { self.value(labels, count) }
    }

    /// A histogram, where there is anything in it.
    ///
    /// # Errors
    /// The encoder's.
    pub fn histogram<B: Bounds>(&mut self, labels: &[&str], histogram: &Histogram<B>) -> fmt::Result {
        let places = histogram.places();
        // Of one look, so that the text agrees with itself.
        let count = places.iter().map(|(_, count)| count).sum();
        if count == 0 {
            return Ok(());
        }
        let sum = histogram.sum();
        self.with(labels, |encoder, _| encoder.encode_histogram::<NoLabelSet>(sum, count, &places, None))
    }

    fn with(
        &mut self,
        values: &[&str],
        write: impl FnOnce(&mut MetricEncoder<'_>, &[(&str, &str)]) -> fmt::Result,
    ) -> fmt::Result {
        if values.len() != self.metric.labels.len() {
            return Err(fmt::Error);
        }
        let labels: SmallVec<[(&str, &str); 4]> =
            self.metric.labels.iter().copied().zip(values.iter().copied()).collect();
        // An info has its labels from `write`.
        if labels.is_empty() || self.metric.kind == Kind::Info {
            return write(&mut self.encoder, &labels);
        }
        write(&mut self.encoder.encode_family(&&*labels)?, &labels)
    }
}

impl fmt::Debug for Samples<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.metric.name)?;
        out.write_char('…')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Cells, Sizes, names};

    #[derive(Debug)]
    struct Some;

    impl Source for Some {
        fn fill(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
            sheet.metric(&names::TUNNELS_OPENED, |samples| samples.value(&["a\"b\\c\nd"], 3_u64))?;
            sheet.metric(&names::TUNNEL_BYTES, |samples| {
                samples.count(&["chat", "in"], 9)?;
                samples.count(&["chat", "out"], 0)
            })?;
            sheet.value(&names::PROCESS_CPU, 1.5)?;
            sheet.known(&names::PROCESS_MAX_FDS, None)?;
            sheet.metric(&names::BUILD, |samples| samples.value(&["1"], 1_u64))?;
            let sizes = Histogram::<Sizes>::zero();
            sheet.metric(&names::TUNNEL_MESSAGE_SIZE, |samples| {
                samples.histogram(&["chat", "in"], &sizes)?;
                [1, 20, 1 << 30].into_iter().for_each(|size| sizes.note(size));
                samples.histogram(&["chat", "in"], &sizes)
            })
        }
    }

    #[test]
    fn the_text_is_openmetrics() {
        let text = write(Some).expect("written");
        let lines: Vec<_> = text.lines().collect();
        for line in [
            "# TYPE portcullis_tunnels_opened counter",
            "portcullis_tunnels_opened_total{route=\"a\\\"b\\\\c\\nd\"} 3",
            "# UNIT portcullis_tunnel_bytes bytes",
            "portcullis_tunnel_bytes_total{route=\"chat\",direction=\"in\"} 9",
            "portcullis_process_cpu_seconds_total 1.5",
            "portcullis_build_info{version=\"1\"} 1",
            "# TYPE portcullis_tunnel_message_size_bytes histogram",
            "portcullis_tunnel_message_size_bytes_count{route=\"chat\",direction=\"in\"} 3",
            "portcullis_tunnel_message_size_bytes_bucket{le=\"64.0\",route=\"chat\",direction=\"in\"} 2",
            "portcullis_tunnel_message_size_bytes_bucket{le=\"+Inf\",route=\"chat\",direction=\"in\"} 3",
        ] {
            assert!(lines.contains(&line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n") && !text.contains("direction=\"out\""));
    }

    #[test]
    fn what_is_not_as_the_table_says_is_not_written() {
        #[derive(Debug)]
        struct Wrong;

        impl Source for Wrong {
            fn fill(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
                sheet.metric(&names::TUNNEL_BYTES, |samples| samples.value(&["chat"], 1_u64))
            }
        }

        assert!(write(Wrong).is_err());
    }
}
