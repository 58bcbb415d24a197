//! Snapshots, each a complete copy of the data.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use json_tree::{Value, json};

use super::rules::{page, required};
use super::volumes::id_of;
use super::{Call, Done, Driver, code, stop};
use crate::state::copy;

fn response_form(snapshot: &Value) -> Value {
    let time = snapshot["time"].as_i64().unwrap_or_default();
    let time = Timestamp::from_second(time).unwrap_or_default().to_string();
    json!({"size_bytes": snapshot["capacity"], "snapshot_id": snapshot["id"],
        "source_volume_id": snapshot["volume"], "creation_time": time,
        "ready_to_use": snapshot["calls"].as_u64() >= snapshot["ready_after"].as_u64()})
}

impl Driver {
    pub(crate) fn create_snapshot(&self, call: &Call<'_>, request: &Value) -> Done {
        let name = required(request, "name")?;
        let volume_id = required(request, "source_volume_id")?;
        let id = id_of("snap", name);
        if let Some(mut snapshot) = self.state.read("snapshots", &id)? {
            if snapshot["volume"] != volume_id {
                return stop(code::ALREADY_EXISTS, format!("{name} of another volume"));
            }
            snapshot["calls"] = json!(snapshot["calls"].as_u64().unwrap_or(0) + 1);
            self.state.write("snapshots", &id, &snapshot)?;
            return Ok(json!({"snapshot": response_form(&snapshot)}));
        }
        let volume = self.volume(volume_id)?;
        self.state.remove_data(&id)?;
        copy(&self.state.data(volume_id), &self.state.data(&id))?;
        call.middle()?;
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let ready_after = volume["parameters"]["ready-after"].as_str();
        let ready_after: u64 = ready_after.and_then(|text| text.parse().ok()).unwrap_or(0);
        let snapshot = json!({"id": id, "name": name, "volume": volume_id, "capacity": volume["capacity"],
            "block": volume["block"], "time": time.as_secs(), "calls": 0, "ready_after": ready_after});
        self.state.write("snapshots", &id, &snapshot)?;
        Ok(json!({"snapshot": response_form(&snapshot)}))
    }

    pub(crate) fn delete_snapshot(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "snapshot_id")?;
        if self.state.read("snapshots", id)?.is_some() {
            self.state.remove_data(id)?;
            call.middle()?;
            self.state.remove("snapshots", id)?;
        }
        Ok(json!({}))
    }

    pub(crate) fn list_snapshots(&self, request: &Value) -> Done {
        let matches = |field: &str, value: &Value| match request[field].as_str() {
            None | Some("") => true,
            Some(expected) => *value == expected,
        };
        let snapshots = self.state.all("snapshots")?.into_iter();
        let entries = snapshots
            .filter(|(_, snapshot)| {
                matches("snapshot_id", &snapshot["id"])
                    && matches("source_volume_id", &snapshot["volume"])
            })
            .map(|(_, snapshot)| json!({"snapshot": response_form(&snapshot)}));
        let (entries, next) = page(request, entries.collect())?;
        Ok(json!({"entries": entries, "next_token": next}))
    }
}
