//! Stand-in for node-driver-registrar.

use std::path::Path;
use std::time::Duration;

use json_tree::json;

use super::text;
use crate::caller::Caller;
use crate::registrant::serve_registration;
use crate::server::TestDriver;

/// Registers the driver at a socket: the agent connects to the registrar's socket, and receives the path of
/// the driver's socket.
///
/// # Errors
/// The socket cannot be created.
pub async fn register(
    caller: &Caller,
    directory: &Path,
    endpoint: &Path,
) -> std::io::Result<TestDriver> {
    let name = loop {
        match caller.call("Identity/GetPluginInfo", &json!({})).await {
            Ok(info) => break text(&info["name"]).to_owned(),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let socket = directory.join(format!("{name}-reg.sock"));
    serve_registration(&socket, &name, endpoint, |error| match error.is_empty() {
        true => eprintln!("registered"),
        false => eprintln!("not registered: {error}"),
    })
}
