//! Hints for a new user: the commands for the next step.

use std::path::Path;

/// Maximum number of listed sets.
const SETS_MAX: usize = 5;

/// Commands to inspect the pods, and their URLs.
pub fn text(program: &str, kubeconfig: &Path, urls: &[String]) -> String {
    let mut text = format!(
        "In another shell:\n  export KUBECONFIG={}\n  {program} status\n  \
         kubectl get sts,pods,pvc,svc -o wide\n",
        kubeconfig.display()
    );
    for url in urls {
        text.push_str(&format!("  curl {url}\n"));
    }
    text.push_str("Ctrl-C stops the pods and keeps their data.");
    text
}

/// The existing sets with their replicas, and commands to inspect them.
pub fn earlier(program: &str, kubeconfig: &Path, sets: &[(String, i32)], pods: usize) -> String {
    let kubeconfig = kubeconfig.display();
    if sets.is_empty() && pods == 0 {
        return format!(
            "No workload exists yet. In another shell:\n  export KUBECONFIG={kubeconfig}\n  \
             kubectl apply -f FILE"
        );
    }
    let mut all: Vec<String> = sets
        .iter()
        .take(SETS_MAX)
        .map(|(name, replicas)| format!("statefulset {name} ({})", counted(*replicas, "replica")))
        .collect();
    if sets.len() > SETS_MAX {
        all.push(format!("{} more sets", sets.len() - SETS_MAX));
    }
    if pods > 0 {
        let pods = i32::try_from(pods).unwrap_or(i32::MAX);
        all.push(counted(pods, "pod") + " of other kinds");
    }
    format!(
        "Existing workloads: {}. In another shell:\n  export KUBECONFIG={kubeconfig}\n  \
         {program} status",
        all.join(", ")
    )
}

fn counted(count: i32, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings U4: nothing was shown without `-f`.
    #[test]
    fn what_is_there_from_before_is_named() {
        let file = Path::new("/data/kubeconfig");
        let text = earlier("mainstay", file, &[], 0);
        assert!(text.contains("No workload exists yet"), "{text}");
        assert!(text.contains("kubectl apply -f FILE"), "{text}");
        let sets = [("web".to_owned(), 3), ("shop/db".to_owned(), 1)];
        let text = earlier("mainstay", file, &sets, 2);
        let start = "Existing workloads: statefulset web (3 replicas), statefulset shop/db \
                     (1 replica), 2 pods of other kinds.";
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with("mainstay status"), "{text}");
    }
}
