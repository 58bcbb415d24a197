//! Work that waits for the disk, on a thread of its own.

/// Runs blocking file system work on a separate thread.
///
/// # Errors
/// Those of the work; the work was interrupted.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    // In a box, tasks of all work with one type of result are of one type, which is compiled once.
    let work: Box<dyn FnOnce() -> Result<T, String> + Send> = Box::new(work);
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(format!("interrupted: {error}")),
    }
}
