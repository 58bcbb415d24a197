//! Redis with Sentinels; the lease has its default length.

use std::collections::BTreeSet;

use end_to_end::image::Image;
use end_to_end::{Kubectl, applications};

use super::{Application, ReadResult, exec, no_acknowledged_write_is_lost, numbers};

struct Redis;

#[test]
fn no_acknowledged_write_is_lost_with_the_primarys_machine() {
    no_acknowledged_write_is_lost::<Redis>(&[]);
}

const PODS: [&str; 3] = ["cache-0", "cache-1", "cache-2"];

impl Application for Redis {
    const SET: &str = "cache";
    const REPLICAS: u64 = 3;
    const MANIFEST: &str = "redis/failover.yaml";
    const PROGRAMS: &[&str] = &["redis-server"];
    const IMAGE: (&str, &str) = ("library/redis", "7");
    const WRITER: &str = WRITER;

    fn image() -> Image {
        applications::redis()
    }

    /// The pod that the Sentinels name.
    fn primary(kubectl: &Kubectl) -> ReadResult<String> {
        let who = "-p 26379 sentinel get-master-addr-by-name main";
        let replies = PODS.map(|pod| redis_cli(kubectl, pod, who));
        let names = replies.iter().flatten();
        let mut names: Vec<&str> = names.filter_map(|name| name.split('.').next()).collect();
        names.dedup();
        match names[..] {
            [name] if name.starts_with("cache-") => Ok(name.to_owned()),
            _ => Err(format!("{replies:?}")),
        }
    }

    /// Both replicas have all data of the primary.
    fn is_whole(kubectl: &Kubectl) -> ReadResult<()> {
        let primary = Self::primary(kubectl)?;
        let printed = redis_cli(kubectl, &primary, "info replication")?;
        match printed.matches("state=online").count() {
            2 => Ok(()),
            _ => Err(printed),
        }
    }

    fn stored(kubectl: &Kubectl) -> ReadResult<BTreeSet<u64>> {
        let primary = Self::primary(kubectl)?;
        Ok(numbers(&redis_cli(kubectl, &primary, "smembers log")?))
    }
}

/// The output of redis-cli in a pod.
fn redis_cli(kubectl: &Kubectl, pod: &str, command: &str) -> ReadResult<String> {
    let words = ["redis-cli", "--raw"].into_iter().chain(command.split(' '));
    exec(kubectl, pod, &words.collect::<Vec<_>>())
}

/// Writes numbers, and prints each number that a replica has, too (`WAIT 1`).
const WRITER: &str = r#"
n=0
find() {
  for pod in 0 1 2; do
    primary=$(timeout 2 redis-cli -h cache-$pod.cache -p 26379 \
      sentinel get-master-addr-by-name main 2>/dev/null | sed -n 1p)
    case $primary in *.cache) return;; esac
  done
}
while sleep 0.1; do
  n=$((n + 1))
  [ "$primary" ] || find
  got=$(printf 'sadd log %s\nwait 1 1000\n' $n | timeout 3 redis-cli -h "$primary" 2>/dev/null)
  case $(echo $got) in
  '1 1' | '1 2') echo "acknowledged $n" ;;
  *) primary= ;;
  esac
done
"#;
