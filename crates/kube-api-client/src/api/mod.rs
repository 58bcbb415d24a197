//! Requests for the objects of one kind.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, Stream};
use http::{Method, Request};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{Client, decode};
use crate::error::{Error, Result};
use crate::lines::ResponseLines;
use crate::list::{ObjectList, Page};
use crate::params::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use crate::request::{self, METADATA, METADATA_LIST, object_path, uri};
use crate::resource::{DynamicResourceScope, PartialObjectMeta, Resource, collection};
use crate::watch::{Config, Watcher};
use crate::written::{WriteResponse, Written};

/// The objects of a kind, in all namespaces or in one namespace.
pub struct Api<K> {
    objects: Objects,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Api<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Api").field(&self.objects.path).finish()
    }
}

/// Constructors.
impl<K: Resource> Api<K> {
    /// All objects of a kind that is known only at run time.
    pub fn all_with(client: Client, kind: &K::DynamicType) -> Self {
        Self::with_namespace(client, kind, None)
    }

    /// The objects in a namespace, of a kind that is known only at run time.
    pub fn namespaced_with(client: Client, namespace: &str, kind: &K::DynamicType) -> Self
    where
        K: Resource<Scope = DynamicResourceScope>,
    {
        Self::with_namespace(client, kind, Some(namespace))
    }

    /// The objects in the client's default namespace, of a kind that is known only at run time.
    pub fn default_namespaced_with(client: Client, kind: &K::DynamicType) -> Self
    where
        K: Resource<Scope = DynamicResourceScope>,
    {
        let namespace = client.default_namespace().to_owned();
        Self::with_namespace(client, kind, Some(&namespace))
    }

    /// The objects in all namespaces, or the cluster-scoped objects.
    pub fn all(client: Client) -> Self
    where
        K::DynamicType: Default,
    {
        Self::with_namespace(client, &K::DynamicType::default(), None)
    }

    /// The objects of a namespace.
    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Self::with_namespace(client, &K::DynamicType::default(), Some(namespace))
    }

    /// The objects in the client's default namespace.
    pub fn default_namespaced(client: Client) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let namespace = client.default_namespace().to_owned();
        Self::namespaced(client, &namespace)
    }

    fn with_namespace(client: Client, kind: &K::DynamicType, namespace: Option<&str>) -> Self {
        let path = collection(&K::api_version(kind), &K::plural(kind), namespace);
        Self {
            objects: Objects {
                client,
                path: path.into(),
                metadata_only: K::METADATA_ONLY,
            },
            kind: PhantomData,
        }
    }
}

impl<K> Api<K> {
    /// The path of the objects.
    pub fn resource_url(&self) -> &str {
        &self.objects.path
    }

    /// A list and watch of these objects.
    pub fn watcher(&self, config: Config) -> Watcher {
        let Objects {
            client,
            path,
            metadata_only,
        } = self.objects.clone();
        Watcher::new(client, path, metadata_only, config)
    }

    /// Deletes an object, or starts its graceful deletion.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<()> {
        self.objects.delete(name, params).await
    }

    /// Deletes the selected objects; only one page of them if `page` has a limit. Returns the next page.
    pub async fn delete_page(
        &self,
        params: &DeleteParams,
        page: ListParams,
    ) -> Result<Option<ListParams>> {
        let deleted = self.objects.delete_page(&page, encode(params)?).await?;
        Ok(page.next(Page::read(&deleted)?.metadata.continue_))
    }

    /// Reads a subresource, which may have a different type.
    pub async fn get_subresource<T: DeserializeOwned>(
        &self,
        subresource: &str,
        name: &str,
    ) -> Result<T> {
        decode(&self.objects.get_subresource(subresource, name).await?)
    }

    /// Replaces a subresource, which may have a different type.
    pub async fn replace_subresource<T: Serialize + DeserializeOwned>(
        &self,
        subresource: &str,
        name: &str,
        params: &PostParams,
        body: &T,
    ) -> Result<T> {
        let body = encode(body)?;
        decode(
            &self
                .objects
                .replace(subresource, name, params, body)
                .await?,
        )
    }

    /// Creates a subresource. Its type and the type of the response may differ from the type of the objects.
    pub async fn create_subresource<T: DeserializeOwned>(
        &self,
        subresource: &str,
        name: &str,
        params: &PostParams,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = encode(body)?;
        let sent = self
            .objects
            .create_subresource(subresource, name, params, body);
        decode(&sent.await?)
    }
}

impl<K: DeserializeOwned> Api<K> {
    /// Reads an object by name. The error has the code 404 if the object does not exist.
    pub async fn get(&self, name: &str) -> Result<K> {
        decode(&self.objects.get(name, self.objects.metadata_only).await?)
    }

    /// Reads an object; `None` if it does not exist.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>> {
        unless_absent(self.get(name).await)
    }

    /// Reads the metadata of an object; `None` if it does not exist.
    pub async fn get_metadata_opt(&self, name: &str) -> Result<Option<PartialObjectMeta<K>>> {
        let read = self.objects.get(name, true).await;
        unless_absent(read.and_then(|bytes| decode(&bytes)))
    }

    /// Lists the selected objects; only one page of them if `params` has a limit.
    pub async fn list(&self, params: &ListParams) -> Result<ObjectList<K>> {
        let metadata_only = self.objects.metadata_only;
        ObjectList::decode(&self.objects.list(params, metadata_only).await?)
    }

    /// Lists all objects, at most `size` in each page.
    pub fn pages(&self, size: u32) -> impl Stream<Item = Result<Vec<K>>> + use<'_, K> {
        let first = ListParams::default().limit(size);
        stream::try_unfold(Some(first), move |params| async move {
            let Some(params) = params else {
                return Ok(None);
            };
            let page = self.list(&params).await?;
            Ok(Some((page.items, params.next(page.metadata.continue_))))
        })
    }

    /// Lists the metadata of objects.
    pub async fn list_metadata(
        &self,
        params: &ListParams,
    ) -> Result<ObjectList<PartialObjectMeta<K>>> {
        ObjectList::decode(&self.objects.list(params, true).await?)
    }

    /// Creates an object (POST) and returns the stored object.
    pub async fn create(&self, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        decode(&self.objects.create(params, encode(object)?).await?)
    }

    /// Creates an object. Only its name, uid and version are decoded from the response.
    pub async fn create_written(&self, params: &PostParams, object: &K) -> Result<Written>
    where
        K: Serialize,
    {
        written(&self.objects.create(params, encode(object)?).await?)
    }

    /// Replaces an object. Only its name, uid and version are decoded from the response.
    pub async fn replace_written(
        &self,
        name: &str,
        params: &PostParams,
        object: &K,
    ) -> Result<Written>
    where
        K: Serialize,
    {
        let body = encode(object)?;
        written(&self.objects.replace("", name, params, body).await?)
    }

    /// Patches an object. Only its name, uid and version are decoded from the response.
    pub async fn patch_written<P: Serialize>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<Written> {
        let patch = patch.encode()?;
        written(&self.objects.patch("", name, params, patch).await?)
    }

    /// Replaces an object (PUT). If the object has a resourceVersion, it must equal the stored one.
    pub async fn replace(&self, name: &str, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.replace_subresource("", name, params, object).await
    }

    /// Replaces the status of an object.
    pub async fn replace_status(&self, name: &str, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.replace_subresource("status", name, params, object)
            .await
    }

    /// Patches an object (PATCH) and returns the stored object.
    pub async fn patch<P: Serialize>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        self.patch_subresource("", name, params, patch).await
    }

    /// Patches the status of an object.
    pub async fn patch_status<P: Serialize>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        self.patch_subresource("status", name, params, patch).await
    }

    /// Patches a subresource that has the type of the objects.
    pub async fn patch_subresource<P: Serialize>(
        &self,
        subresource: &str,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        let patch = patch.encode()?;
        decode(&self.objects.patch(subresource, name, params, patch).await?)
    }
}

fn encode(object: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(object).map_err(Error::Json)
}

fn written(response: &[u8]) -> Result<Written> {
    decode(response).map(|response: WriteResponse| response.metadata)
}

fn unless_absent<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(object) => Ok(Some(object)),
        Err(Error::Api(status)) if status.code == 404 || status.reason == "NotFound" => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parameters of a request for a container's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogParams {
    /// The container; `None` if the pod has only one.
    pub container: Option<String>,
    /// Whether the stream continues while the container writes.
    pub follow: bool,
    /// The maximum number of bytes in the response.
    pub limit_bytes: Option<i64>,
    /// Whether the log of the previous container is read, from before its last restart.
    pub previous: bool,
    /// The number of last lines in the response; `None` for all lines.
    pub tail_lines: Option<i64>,
}

impl LogParams {
    fn request(&self, pods: &str, pod: &str) -> Result<Request<Bytes>> {
        let path = object_path(pods, pod, "log")?;
        request::get(uri(&path, |query| {
            if let Some(container) = &self.container {
                query.append_pair("container", container);
            }
            if self.follow {
                query.append_pair("follow", "true");
            }
            if let Some(limit) = self.limit_bytes {
                query.append_pair("limitBytes", &limit.to_string());
            }
            if self.previous {
                query.append_pair("previous", "true");
            }
            if let Some(lines) = self.tail_lines {
                query.append_pair("tailLines", &lines.to_string());
            }
        }))
    }
}

/// Logs.
impl Api<Pod> {
    /// The log of a container.
    pub async fn logs(&self, pod: &str, params: &LogParams) -> Result<String> {
        let request = params.request(&self.objects.path, pod)?;
        let log = self.objects.client.bytes(request).await?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// The log of a container, line by line.
    pub async fn log_stream(&self, pod: &str, params: &LogParams) -> Result<ResponseLines> {
        let request = params.request(&self.objects.path, pod)?;
        self.objects.client.lines(request).await
    }
}

/// The part of the requests that does not depend on the type of the objects.
#[derive(Clone)]
struct Objects {
    client: Client,
    path: Arc<str>,
    metadata_only: bool,
}

type ResponseFuture = BoxFuture<'static, Result<Bytes>>;

impl Objects {
    fn send(&self, request: Result<Request<Bytes>>) -> ResponseFuture {
        match request {
            Ok(request) => self.client.bytes(request),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn get(&self, name: &str, metadata_only: bool) -> ResponseFuture {
        let accept = metadata_only.then_some(METADATA);
        let path = object_path(&self.path, name, "");
        self.send(path.and_then(|path| request::get_as(path, accept)))
    }

    fn get_subresource(&self, subresource: &str, name: &str) -> ResponseFuture {
        let path = object_path(&self.path, name, subresource);
        self.send(path.and_then(request::get))
    }

    fn list(&self, params: &ListParams, metadata_only: bool) -> ResponseFuture {
        let uri = uri(&self.path, |query| params.add(query));
        let accept = metadata_only.then_some(METADATA_LIST);
        self.send(request::get_as(uri, accept))
    }

    fn create(&self, params: &PostParams, body: Vec<u8>) -> ResponseFuture {
        let uri = uri(&self.path, |query| params.add(query));
        self.send(request::write(Method::POST, uri, body))
    }

    fn create_subresource(
        &self,
        subresource: &str,
        name: &str,
        params: &PostParams,
        body: Vec<u8>,
    ) -> ResponseFuture {
        self.send(object_path(&self.path, name, subresource).and_then(|path| {
            let uri = uri(&path, |query| params.add(query));
            request::write(Method::POST, uri, body)
        }))
    }

    fn replace(
        &self,
        subresource: &str,
        name: &str,
        params: &PostParams,
        body: Vec<u8>,
    ) -> ResponseFuture {
        self.send(object_path(&self.path, name, subresource).and_then(|path| {
            let uri = uri(&path, |query| params.add(query));
            request::write(Method::PUT, uri, body)
        }))
    }

    fn patch(
        &self,
        subresource: &str,
        name: &str,
        params: &PatchParams,
        (content_type, patch): (&str, Vec<u8>),
    ) -> ResponseFuture {
        let accept = self.metadata_only.then_some(METADATA);
        self.send(object_path(&self.path, name, subresource).and_then(|path| {
            let uri = uri(&path, |query| params.add(query));
            request::patch(uri, content_type, accept, patch)
        }))
    }

    async fn delete(&self, name: &str, params: &DeleteParams) -> Result<()> {
        let path = object_path(&self.path, name, "")?;
        let request = request::delete(path, METADATA, encode(params)?);
        self.send(request).await.map(drop)
    }

    fn delete_page(&self, page: &ListParams, params: Vec<u8>) -> ResponseFuture {
        let uri = uri(&self.path, |query| page.add(query));
        self.send(request::delete(uri, METADATA_LIST, params))
    }
}

#[cfg(test)]
mod tests;
