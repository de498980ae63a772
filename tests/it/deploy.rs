//! The operator's files: what `deploy/` asks of a node is there, and Debian's own Prometheus agrees.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::metrics::http_get;
use hawsepipe_tests::peer::Setup;
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(file: &str) -> String {
    fs::read_to_string(deploy().join(file)).unwrap()
}

/// Every expression of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana/hawsepipe.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().replace("$instance", ".*")).collect()
}

/// Runs `promtool`; its complaint if it has one.
fn promtool(arguments: &[&str], input: &[u8]) -> Result<(), String> {
    use std::io::Write as _;
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(deploy().join("prometheus"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("promtool: {error}"))?;
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

/// Names of our metrics in a text, without what histograms append.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("hawsepipe_"));
    names.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn dashboard_alerts_and_runbook_speak_of_metrics_that_exist() {
    let known = names_in(&read("METRICS.md"));
    for file in
        ["grafana/hawsepipe.json", "prometheus/alerts.yml", "prometheus/alerts_test.yml", "RUNBOOK.md"]
    {
        let unknown: Vec<_> = names_in(&read(file)).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn each_alert_is_tested_and_has_a_section_in_the_runbook() {
    let after = |text: &str, mark: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.trim_start_matches(['-', ' ']).strip_prefix(mark));
        lines.map(|name| name.trim().to_owned()).collect()
    };
    let alerts = after(&read("prometheus/alerts.yml"), "alert:");
    assert!(!alerts.is_empty());
    let sections: BTreeSet<_> =
        after(&read("RUNBOOK.md"), "##").into_iter().filter(|name| name.starts_with("Hawsepipe")).collect();
    assert_eq!(alerts, sections);
    assert_eq!(alerts, after(&read("prometheus/alerts_test.yml"), "alertname:"));
}

#[test]
fn the_alert_rules_pass_their_tests() {
    promtool(&["check", "config", "prometheus.yml"], b"").unwrap();
    promtool(&["test", "rules", "alerts_test.yml"], b"").unwrap();
}

/// A Prometheus that ends with the test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Prometheus {
    /// Scrapes `target` every second.
    fn start(host: &Host, target: &str) -> Self {
        let dir = host.dir().join("prometheus");
        fs::create_dir_all(&dir).unwrap();
        let rules = deploy().join("prometheus/alerts.yml").canonicalize().unwrap();
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "hawsepipe", "static_configs": [{"targets": [target]}]}],
        });
        let file = dir.join("prometheus.yml");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:9090")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("log")).unwrap());
        Self(host.enter(|| command.spawn()).unwrap())
    }

    fn query(host: &Host, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let answer = host.enter(|| http_get(([127, 0, 0, 1], 9090).into(), &path));
        let (status, body) = answer.map_err(|error| error.to_string())?;
        let body: Value = serde_json::from_str(&body).map_err(|error| format!("{status}: {error}"))?;
        body["data"]["result"].as_array().cloned().ok_or_else(|| body.to_string())
    }
}

#[test]
fn a_real_prometheus_scrapes_a_node_and_understands_the_dashboard() {
    lab::run(|lab| {
        let host = lab.host("pub");
        let node = Setup::on(&host).solitary().start();
        node.publish(&json!({"type": "post", "text": "so that there is something to count"}));
        let text = host.enter(|| http_get(([127, 0, 0, 1], 8990).into(), "/metrics")).unwrap().1;
        promtool(&["check", "metrics"], text.as_bytes()).unwrap();
        assert!(!text.contains("so that there is"), "no text of messages");

        let _prometheus = Prometheus::start(&host, "127.0.0.1:8990");
        wait::until("a scrape", SOON, || {
            let up = Prometheus::query(&host, "up == 1 and on (instance) hawsepipe_messages == 1")?;
            if up.is_empty() { Err("nothing yet".to_owned()) } else { Ok(()) }
        });
        for expression in expressions() {
            Prometheus::query(&host, &expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        }
        for filled in [
            "hawsepipe_build_info",
            "hawsepipe_queue_limit{queue=\"store\"}",
            "hawsepipe_call_seconds_count{method=\"publish\"}",
            "hawsepipe_process_resident_memory_bytes",
        ] {
            assert!(!Prometheus::query(&host, filled).unwrap().is_empty(), "{filled}");
        }
        drop(node);
        wait::until("the alert", SOON, || {
            let pending = Prometheus::query(&host, "ALERTS{alertname=\"HawsepipeDown\"}")?;
            if pending.is_empty() { Err("none yet".to_owned()) } else { Ok(()) }
        });
    });
}
