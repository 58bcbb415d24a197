//! The policy of a situation, from the words of its set.

use std::sync::Arc;

use json_tree::{Value, json};
use resource_kinds::stateful_set_policy::StatefulSetPolicy;

use super::situation::Words;

/// A policy with a guard of that `minHealthy`, and with that answer to a rollout that fails.
pub fn policy(words: &Words<'_>) -> Option<Arc<StatefulSetPolicy>> {
    let (min_healthy, on_failure) = (words.get("guard"), words.get("on-failure"));
    let mut spec = json!({ "setRef": { "name": "web" } });
    if let Some(text) = min_healthy {
        let number = text.parse::<i64>();
        spec["guard"]["minHealthy"] = number.map_or_else(|_| Value::from(text), Value::from);
        if let Some(group) = words.get("group") {
            spec["guard"]["group"] = group.into();
        }
    }
    if let Some(answer) = on_failure {
        let strategy = if words.has("recreate") {
            "Recreate"
        } else {
            "RollingUpdate"
        };
        spec["rollout"] = json!({ "onFailure": answer, "progressDeadlineSeconds": 300,
            "strategy": strategy });
    }
    // `order=zone,last:leader,ordinals:2+0`
    let order = words.get("order");
    if let Some(keys) = order {
        let keys = keys.split(',').map(|key| match key.split_once(':') {
            None => json!({ "zone": {} }),
            Some(("last", roles)) => {
                json!({ "role": { "last": roles.split('+').collect::<Vec<&str>>() } })
            }
            Some((_, ordinals)) => {
                let ordinals = ordinals.split('+').map(|one| one.parse().unwrap());
                json!({ "ordinals": ordinals.collect::<Vec<i64>>() })
            }
        });
        let keys: Vec<Value> = keys.collect();
        spec["rollout"]["order"] = keys.into();
        spec["roles"] = json!({ "fromLabel": "role", "default": words.get("default-role") });
    }
    // `steps=1:approve,50%:5,2`
    let steps = words.get("steps");
    if let Some(steps) = steps {
        let steps = steps.split(',').map(|step| {
            let (pods, pause) = step.split_once(':').unwrap_or((step, ""));
            let pods = pods
                .parse::<i64>()
                .map_or_else(|_| json!(pods), |pods| json!(pods));
            let pause = match pause {
                "" => Value::Null,
                "approve" => json!({ "untilApproved": true }),
                seconds => json!({ "seconds": seconds.parse::<u32>().unwrap() }),
            };
            json!({ "pods": pods, "pause": pause })
        });
        let steps: Vec<Value> = steps.collect();
        spec["rollout"]["steps"] = steps.into();
    }
    // `hooks=drain:Update+ScaleDown,leave:ScaleDown`
    let hooks = words.get("hooks");
    if let Some(hooks) = hooks {
        let hooks = hooks.split(',').map(|hook| {
            let (name, purposes) = hook.split_once(':').unwrap();
            let mut hook = json!({ "name": name, "before": purposes.split('+').collect::<Vec<_>>(),
                "exec": { "command": [name] }, "timeoutSeconds": 60 });
            if words.has("cancel") {
                hook["cancel"] = json!({ "exec": { "command": ["back"] }, "timeoutSeconds": 60 });
            }
            if words.has("proceed") {
                hook["onTimeout"] = json!("Proceed");
            }
            hook
        });
        let hooks: Vec<Value> = hooks.collect();
        spec["hooks"] = hooks.into();
    }
    let policy = json!({ "metadata": { "name": "p" }, "spec": spec });
    min_healthy.or(on_failure).or(order).or(hooks).or(steps)?;
    Some(Arc::new(json_tree::from_value(policy).unwrap()))
}
