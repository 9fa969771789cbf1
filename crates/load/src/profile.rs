//! Staged profiles: TOML or JSON, with thresholds that decide whether a run was good.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::run::{Outcome, Stage, milliseconds};

const KEYS: [&str; 9] = ["url", "size", "text", "window", "threads", "sources", "beat", "stages", "thresholds"];
const MEASURES: [&str; 7] = ["p50_ms", "p99_ms", "p999_ms", "max_ms", "failed", "rate", "cpu_seconds_per_million"];

/// What a file asks for.
#[derive(Debug)]
pub struct Profile {
    /// `ws://host:port/path`, where the command line names none.
    pub url: Option<String>,
    /// Payload of a message, in bytes.
    pub size: usize,
    /// Text in place of binary messages.
    pub text: bool,
    /// Messages under way on one connection where no rate is set.
    pub window: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// Own addresses.
    pub sources: u8,
    /// The parts.
    pub stages: Vec<Stage>,
    /// What must hold.
    pub thresholds: Vec<Threshold>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// One of the measures.
    pub measure: String,
    /// `<`, `<=`, `>`, `>=` or `==`.
    pub operator: String,
    /// In the unit of the measure.
    pub limit: f64,
}

impl Profile {
    /// Reads `.toml` and `.json`.
    ///
    /// # Errors
    /// Not readable, not of the format, an unknown key or a value that is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let value = if path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("json")) {
            serde_json::from_str(&text).with_context(|| path.display().to_string())?
        } else {
            toml::from_str(&text).with_context(|| path.display().to_string())?
        };
        Self::parse(&value).with_context(|| path.display().to_string())
    }

    fn parse(value: &Value) -> Result<Self> {
        let fields = value.as_object().context("a profile is a table")?;
        for key in fields.keys() {
            ensure!(KEYS.contains(&key.as_str()), "unknown key '{key}'; known are {}", KEYS.join(", "));
        }
        let whole = |name: &str, default: u64| match &value[name] {
            Value::Null => Ok(default),
            given => given.as_u64().with_context(|| format!("{name}: {given} is not a whole number >= 0")),
        };
        let mut stages = Vec::new();
        for stage in value["stages"].as_array().context("stages: a list of tables is needed")? {
            let number = |name: &str| stage[name].as_f64().filter(|number| *number >= 0.0);
            let seconds = number("seconds").context("stages: each needs seconds")?;
            let conns = number("conns").context("stages: each needs conns, those at its end")?;
            let rate = number("rate").unwrap_or(0.0);
            stages.push(Stage { length: Duration::try_from_secs_f64(seconds)?, conns: conns as usize, rate });
        }
        ensure!(!stages.is_empty(), "stages: at least one is needed");
        let given: BTreeMap<_, _> = value["thresholds"].as_object().into_iter().flatten().collect();
        let mut thresholds = Vec::new();
        for (measure, condition) in given {
            thresholds.push(threshold(measure, condition.as_str().context("thresholds: write them as \"< 50\"")?)?);
        }
        Ok(Self {
            url: value["url"].as_str().map(str::to_owned),
            size: whole("size", 32)? as usize,
            text: value["text"].as_bool().unwrap_or(false),
            window: whole("window", 1)? as usize,
            threads: whole("threads", 1)? as usize,
            sources: u8::try_from(whole("sources", 0)?).context("sources: 0 to 250")?,
            stages,
            thresholds,
        })
    }
}

fn threshold(measure: &str, condition: &str) -> Result<Threshold> {
    ensure!(MEASURES.contains(&measure), "thresholds: unknown measure '{measure}'; known are {}", MEASURES.join(", "));
    let digits = condition.find(|c: char| c.is_ascii_digit()).context("thresholds: write them as \"< 50\"")?;
    let (operator, limit) = condition.split_at(digits);
    let operator = operator.trim();
    if !["<", "<=", ">", ">=", "=="].contains(&operator) {
        bail!("thresholds: {measure}: operator '{operator}'; known are <, <=, >, >=, ==");
    }
    let limit = limit.trim().parse().with_context(|| format!("thresholds: {measure}: {condition}"))?;
    Ok(Threshold { measure: measure.to_owned(), operator: operator.to_owned(), limit })
}

impl Threshold {
    /// What was measured, and whether that is good.
    pub fn judge(&self, outcome: &Outcome) -> (f64, bool) {
        let delay = |share| milliseconds(&outcome.total.delays, share);
        let measured = match self.measure.as_str() {
            "p50_ms" => delay(0.5),
            "p99_ms" => delay(0.99),
            "p999_ms" => delay(0.999),
            "max_ms" => delay(1.0),
            "failed" => outcome.total.failed as f64,
            "rate" => outcome.total.messages as f64 / outcome.seconds,
            _ => outcome.cpu_per_million(),
        };
        (measured, self.holds(measured))
    }

    fn holds(&self, measured: f64) -> bool {
        match self.operator.as_str() {
            "<" => measured < self.limit,
            "<=" => measured <= self.limit,
            ">" => measured > self.limit,
            ">=" => measured >= self.limit,
            _ => (measured - self.limit).abs() < f64::EPSILON,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stages_and_thresholds() {
        let text = "size = 64\nwindow = 4\n[[stages]]\nseconds = 1.5\nconns = 10\n[[stages]]\nseconds = 2\nconns = 0\n\
                    rate = 100\n[thresholds]\np99_ms = \"<50\"\nfailed = \"== 0\"\n";
        let profile = Profile::parse(&toml::from_str(text).unwrap()).unwrap();
        assert_eq!((profile.size, profile.window, profile.stages.len()), (64, 4, 2));
        assert_eq!(profile.stages[0].length, Duration::from_millis(1500));
        let [failed, delay] = &profile.thresholds[..] else { panic!("{:?}", profile.thresholds) };
        assert!(failed.holds(0.0) && !failed.holds(1.0));
        assert!(delay.holds(49.9) && !delay.holds(50.0));
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |text: &str| Profile::parse(&toml::from_str(text).unwrap()).unwrap_err().to_string();
        assert!(error("sise = 3").contains("sise"));
        assert!(error("size = 3").contains("stages"));
        let stage = "[[stages]]\nseconds = 1\nconns = 1\n[thresholds]\n";
        assert!(error(&format!("{stage}p98_ms = \"< 1\"")).contains("p98_ms"));
        assert!(error(&format!("{stage}p99_ms = \"~ 1\"")).contains('~'));
    }
}
