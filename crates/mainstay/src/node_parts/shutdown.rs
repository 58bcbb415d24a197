//! The order in which the pods stop at the shutdown of the node, and their time to stop.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use jiff::SignedDuration;
use node_agent::ShutdownOrder;
use serde::Deserialize;

/// The settings as flags, with kubelet's names, and in the configuration file.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ShutdownSettings {
    /// Time for all pods to stop [default: the grace period of each pod]
    #[arg(long, value_name = "DURATION")]
    shutdown_grace_period: Option<SignedDuration>,
    /// Last part of that time, reserved for critical pods [default: 0s]
    #[arg(long, value_name = "DURATION", requires = "shutdown_grace_period")]
    shutdown_grace_period_critical_pods: Option<SignedDuration>,
    /// Seconds for pods from each priority, such as 0=60,100000=10; lower priorities stop first
    #[arg(
        long,
        value_name = "PRIORITY=SECONDS",
        value_delimiter = ',',
        allow_hyphen_values = true,
        conflicts_with_all = ["shutdown_grace_period", "shutdown_grace_period_critical_pods"]
    )]
    shutdown_grace_period_by_pod_priority: Vec<PriorityPeriod>,
}

/// The grace period of pods whose priority is at least this priority.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriorityPeriod {
    priority: i32,
    shutdown_grace_period_seconds: i64,
}

impl FromStr for PriorityPeriod {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (priority, seconds) = text
            .split_once('=')
            .context("expected PRIORITY=SECONDS, for instance 100000=10")?;
        Ok(Self {
            priority: priority.parse().context("parse the priority")?,
            shutdown_grace_period_seconds: seconds.parse().context("parse the seconds")?,
        })
    }
}

impl ShutdownSettings {
    /// Uses the settings of the configuration file if no flag sets any of them.
    pub fn or(self, file: Self) -> Self {
        match self == Self::default() {
            true => file,
            false => self,
        }
    }

    /// The order that the settings define.
    pub fn order(&self) -> Result<ShutdownOrder> {
        let periods = &self.shutdown_grace_period_by_pod_priority;
        let critical = self.shutdown_grace_period_critical_pods;
        let order = match self.shutdown_grace_period {
            Some(_) if !periods.is_empty() => {
                bail!("shutdownGracePeriod and shutdownGracePeriodByPodPriority exclude each other")
            }
            Some(all) => {
                ShutdownOrder::of_periods(all.as_secs(), critical.unwrap_or_default().as_secs())
            }
            None if critical.is_some() => {
                bail!("shutdownGracePeriodCriticalPods is a part of shutdownGracePeriod")
            }
            None => ShutdownOrder::by_priority(
                periods
                    .iter()
                    .map(|period| (period.priority, period.shutdown_grace_period_seconds)),
            ),
        };
        Ok(order?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        shutdown: ShutdownSettings,
    }

    fn flags(words: &[&str]) -> Result<ShutdownSettings> {
        let words = std::iter::once("up").chain(words.iter().copied());
        Ok(Command::try_parse_from(words)?.shutdown)
    }

    #[test]
    fn flags_and_the_file_say_the_same() {
        let words = [
            "--shutdown-grace-period",
            "30s",
            "--shutdown-grace-period-critical-pods",
            "10s",
        ];
        let file = "{shutdownGracePeriod: 30s, shutdownGracePeriodCriticalPods: 10s}";
        let file: ShutdownSettings = serde_saphyr::from_str(file).unwrap();
        let order = ShutdownOrder::of_periods(30, 10).unwrap();
        assert_eq!(flags(&words).unwrap().order().unwrap(), order);
        assert_eq!(file.order().unwrap(), order);
        let words = ["--shutdown-grace-period-by-pod-priority", "-5=1,100000=10"];
        let order = ShutdownOrder::by_priority([(-5, 1), (100_000, 10)]).unwrap();
        assert_eq!(flags(&words).unwrap().or(file).order().unwrap(), order);
        let file = "{shutdownGracePeriodByPodPriority: [\
            {priority: -5, shutdownGracePeriodSeconds: 1}, \
            {priority: 100000, shutdownGracePeriodSeconds: 10}]}";
        let file: ShutdownSettings = serde_saphyr::from_str(file).unwrap();
        assert_eq!(flags(&[]).unwrap().or(file).order().unwrap(), order);
        let none = flags(&[]).unwrap().order().unwrap();
        assert_eq!(none, ShutdownOrder::default());
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        let period = "--shutdown-grace-period";
        let critical = "--shutdown-grace-period-critical-pods";
        let by_priority = "--shutdown-grace-period-by-pod-priority";
        assert!(flags(&[period, "30s", by_priority, "0=1"]).is_err());
        assert!(flags(&[critical, "30s"]).is_err());
        assert!(flags(&[by_priority, "10s"]).is_err());
        let order = flags(&[period, "10s", critical, "30s"]).unwrap().order();
        assert!(order.unwrap_err().to_string().contains("cannot be longer"));
    }
}
