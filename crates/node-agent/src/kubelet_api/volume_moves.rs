//! The steps of a volume's move to another node: `POST /volumeMoves/VOLUME/ID/STEP`.
//!
//! The leader of the controllers sends the requests. All steps are POST requests, even a step that only
//! reads: the step reads files of pods, so the right to read a node must not be enough.

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use object_model::Status;

use super::query;
use super::response::{BoxBody, error_status, full};
use crate::config::{MoveStep, VolumeMoves};

/// Maximum bytes in one part of a copy.
const PART_BYTES_MAX: usize = 4 << 20;

pub(super) async fn respond(
    moves: Option<&dyn VolumeMoves>,
    [volume, id, step]: [&str; 3],
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, Box<Status>> {
    let Some(moves) = moves else {
        return Err(error_status(
            StatusCode::NOT_FOUND,
            "the node moves no volumes",
        ));
    };
    let (parts, body) = request.into_parts();
    let body = read_body(body).await?;
    let step = MoveStep {
        volume: volume.to_owned(),
        id: id.to_owned(),
        step: step.to_owned(),
        parameters: query::parameters(parts.uri.query()),
        body,
    };
    moves
        .carry_out(step)
        .await
        .map(|bytes| Response::new(full(bytes)))
}

/// The body of a request. Fails if it is larger than the largest part.
async fn read_body(mut body: BoxBody) -> Result<Bytes, Box<Status>> {
    let bad_request = |text: String| error_status(StatusCode::BAD_REQUEST, &text);
    let mut data = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| bad_request(format!("read a part of a volume: {error}")))?;
        data.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        if data.len() > PART_BYTES_MAX {
            return Err(bad_request(
                "the part of the volume is too large".to_owned(),
            ));
        }
    }
    Ok(data.freeze())
}
