//! One scrape of a node's `/metrics`, as numbers that a test can ask for.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a node may take to answer a scrape.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// The prefix that all our metrics share; tests leave it out.
const PREFIX: &str = "hawsepipe_";

/// All samples of one scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Scrapes the node that listens at `address`, from the network that the calling thread is in.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn scrape(address: SocketAddr) -> Result<Self, String> {
        let (status, body) = http_get(address, "/metrics").map_err(|e| format!("GET /metrics: {e}"))?;
        if status != 200 {
            return Err(format!("GET /metrics: status {status}"));
        }
        Self::parse(&body)
    }

    /// Reads the text exposition format.
    ///
    /// # Errors
    /// The line that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| parse_sample(line).ok_or_else(|| format!("not a sample: {line}")));
        Ok(Self { samples: samples.collect::<Result<_, _>>()? })
    }

    /// The sum of all samples of `name` (without the prefix) whose labels include `labels`; 0 when there
    /// is none, because a counter that never counted need not be exposed.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether any sample of `name` (without the prefix) is exposed.
    pub fn has(&self, name: &str) -> bool {
        self.matching(name, &[]).next().is_some()
    }

    /// The histogram `name` (without the prefix), summed over all series whose labels include `labels`.
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Histogram {
        let mut histogram = Histogram::default();
        for sample in self.matching(&format!("{name}_bucket"), labels) {
            let bound = sample.labels.get("le").and_then(|le| le.parse().ok()).unwrap_or(f64::INFINITY);
            histogram.add(bound, sample.value);
        }
        histogram
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name.strip_prefix(PREFIX) == Some(name)
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        })
    }
}

/// How many values were at most as large as each of some bounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    fn add(&mut self, bound: f64, count: f64) {
        match self.0.iter_mut().find(|(other, _)| *other == bound) {
            Some((_, counted)) => *counted += count,
            None => self.0.push((bound, count)),
        }
        self.0.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    }

    /// Counts what `other` counted as well. Both have the same bounds, as those of one metric have.
    pub fn merge(&mut self, other: &Self) {
        for (bound, count) in &other.0 {
            self.add(*bound, *count);
        }
    }

    /// What was counted since `before`.
    pub fn since(mut self, before: &Self) -> Self {
        for (bound, count) in &before.0 {
            self.add(*bound, -count);
        }
        self
    }

    /// How many values there are.
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The value that the share `quantile` of all is at most as large as, taking values for evenly spread
    /// between two bounds. `None` without values, and infinite beyond the last bound.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let wanted = quantile * self.count();
        let at = self.0.iter().position(|(_, count)| *count >= wanted && *count > 0.0)?;
        let (bound, count) = self.0[at];
        let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| self.0[before]);
        Some(if bound.is_infinite() {
            bound
        } else {
            low + (bound - low) * (wanted - below) / (count - below)
        })
    }
}

impl fmt::Display for Metrics {
    /// Our own samples that are not zero: what a failed wait shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = self.samples.iter().filter(|s| s.name.starts_with(PREFIX) && s.value != 0.0);
        for sample in ours {
            writeln!(f, "  {}{:?} {}", sample.name, sample.labels, sample.value)?;
        }
        Ok(())
    }
}

fn parse_sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(Sample { name: series.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut parsed = BTreeMap::new();
    // None of our label values holds a quote or a comma: they are all names from fixed lists.
    for label in labels.strip_suffix('}')?.split(',').filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once('=')?;
        parsed.insert(key.to_owned(), value.strip_prefix('"')?.strip_suffix('"')?.to_owned());
    }
    Some(Sample { name: name.to_owned(), labels: parsed, value })
}

/// A GET as small as it can be: status and body.
///
/// # Errors
/// When the connection or the answer's first line is not HTTP.
pub fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, SCRAPE_TIMEOUT)?;
    stream.set_read_timeout(Some(SCRAPE_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("not an HTTP answer"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body) } else { body.to_owned() }))
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some((chunk, rest)) = rest.split_at_checked(size) else { break };
        text.push_str(chunk);
        body = rest.trim_start_matches("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "# HELP hawsepipe_dials_total Dials.\n# TYPE hawsepipe_dials_total counter\n\
        hawsepipe_dials_total{carrier=\"net\",outcome=\"ok\"} 2\n\
        hawsepipe_dials_total{carrier=\"quic\",outcome=\"ok\"} 3\n\
        hawsepipe_messages 7\nprocess_open_fds 12\n";

    #[test]
    fn sums_what_matches_the_labels() {
        let metrics = Metrics::parse(SCRAPE).unwrap();
        assert_eq!(metrics.sum("dials_total", &[]), 5.0);
        assert_eq!(metrics.sum("dials_total", &[("carrier", "quic")]), 3.0);
        assert_eq!(metrics.sum("dials_total", &[("carrier", "unix")]), 0.0);
        assert_eq!(metrics.sum("messages", &[]), 7.0);
        assert!(!metrics.has("open_fds"));
    }

    #[test]
    fn a_line_that_is_no_sample_is_an_error() {
        assert!(Metrics::parse("hawsepipe_messages seven\n").is_err());
        assert!(Metrics::parse("<html>\n").is_err());
    }

    #[test]
    fn a_histogram_tells_quantiles_of_all_its_series() {
        let scrape = "hawsepipe_t_bucket{kind=\"a\",le=\"1\"} 5\nhawsepipe_t_bucket{kind=\"a\",le=\"2\"} 9\n\
            hawsepipe_t_bucket{kind=\"a\",le=\"+Inf\"} 10\nhawsepipe_t_bucket{kind=\"b\",le=\"+Inf\"} 7\n";
        let histogram = Metrics::parse(scrape).unwrap().histogram("t", &[("kind", "a")]);
        assert_eq!(histogram.count(), 10.0);
        assert_eq!(histogram.quantile(0.5), Some(1.0));
        assert_eq!(histogram.quantile(0.7), Some(1.5));
        assert_eq!(histogram.quantile(0.99), Some(f64::INFINITY));
        assert_eq!(histogram.clone().since(&histogram).quantile(0.5), None);
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!((twice.count(), twice.quantile(0.7)), (20.0, Some(1.5)));
    }

    #[test]
    fn joins_chunks() {
        assert_eq!(unchunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}
