// A tour with the official JavaScript client: node tour.mjs KUBECONFIG DIRECTORY-OF-THE-CLIENT

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';

const [kubeconfig, directory] = process.argv.slice(2);
const k8s = await import(createRequire(`${directory}/`).resolve('@kubernetes/client-node'));

const namespace = 'tour';
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const { PatchStrategy } = k8s;

/** The options of a patch of the given kind. */
const as = (kind) => k8s.setHeaderOptions('Content-Type', kind);

/** The call is refused with a Status of this code and reason; returns the Status. */
async function expectStatus(code, reason, call) {
    const refusal = await call().then(() => assert.fail(`${code} ${reason} expected`), (e) => e);
    assert.equal(refusal.code, code, refusal);
    const status = typeof refusal.body === 'string' ? JSON.parse(refusal.body) : refusal.body;
    assert.equal(status.kind, 'Status');
    assert.equal(status.code, code);
    assert.equal(status.reason, reason);
    return status;
}

async function until(what, probe) {
    for (const end = Date.now() + 60_000; Date.now() < end; await sleep(100)) {
        if (await probe()) {
            return;
        }
    }
    assert.fail(`waited a minute for ${what}`);
}

async function configMaps() {
    for (const name of ['one', 'two']) {
        const body = { metadata: { name, labels: { name } }, data: { a: '1' } };
        await core.createNamespacedConfigMap({ namespace, body });
    }
    const found = await core.listNamespacedConfigMap({ namespace, labelSelector: 'name in (one)' });
    assert.deepEqual(found.items.map((item) => item.metadata.name), ['one']);

    const read = await core.readNamespacedConfigMap({ namespace, name: 'one' });
    assert(read.metadata.creationTimestamp instanceof Date);
    read.data.b = '2';
    await core.replaceNamespacedConfigMap({ namespace, name: 'one', body: read });
    await expectStatus(409, 'Conflict', () =>
        core.replaceNamespacedConfigMap({ namespace, name: 'one', body: read }));

    const patch = async (body, kind, more = {}) => {
        const request = { namespace, name: 'one', body, ...more };
        return (await core.patchNamespacedConfigMap(request, as(kind))).data;
    };
    assert.deepEqual(await patch({ data: { b: null } }, PatchStrategy.MergePatch), { a: '1' });
    assert.equal((await patch({ data: { c: '3' } }, PatchStrategy.StrategicMergePatch)).c, '3');
    const operations = [{ op: 'replace', path: '/data/c', value: '4' }];
    assert.equal((await patch(operations, PatchStrategy.JsonPatch)).c, '4');
    const applied = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'one' } };
    applied.data = { c: '5' };
    const apply = (more) =>
        patch(applied, PatchStrategy.ServerSideApply, { fieldManager: 'tour', ...more });
    const conflict = await expectStatus(409, 'Conflict', () => apply({}));
    assert.equal(conflict.details.causes[0].reason, 'FieldManagerConflict');
    assert.equal((await apply({ force: true })).c, '5');
}

async function errors() {
    const missing = await expectStatus(404, 'NotFound', () =>
        core.readNamespacedConfigMap({ namespace, name: 'none' }));
    assert.equal(missing.message, 'configmaps "none" not found');
    await expectStatus(409, 'AlreadyExists', () =>
        core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'one' } } }));
    const invalid = await expectStatus(422, 'Invalid', () =>
        core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'Not_A_Name' } } }));
    assert.equal(invalid.details.causes[0].field, 'metadata.name');
    const headers = k8s.setHeaderOptions('Impersonate-User', 'nobody');
    const forbidden = await expectStatus(403, 'Forbidden', () =>
        core.listNamespacedSecret({ namespace }, headers));
    assert.match(forbidden.message, /User "nobody" cannot list resource "secrets"/);
}

/** An informer lists, watches, and has in its cache what the server has. */
async function informer() {
    const list = () => core.listNamespacedConfigMap({ namespace });
    const path = `/api/v1/namespaces/${namespace}/configmaps`;
    const informer = k8s.makeInformer(config, path, list);
    const seen = [];
    for (const verb of ['add', 'update', 'delete']) {
        informer.on(verb, (object) => seen.push(`${verb} ${object.metadata.name}`));
    }
    informer.on('error', (error) => seen.push(`error ${error}`));
    await informer.start();
    await until('the list', () => informer.list(namespace).length === 3);
    seen.length = 0;
    const name = 'seen';
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name } } });
    const change = { namespace, name, body: { data: { x: 'y' } } };
    await core.patchNamespacedConfigMap(change, as(PatchStrategy.MergePatch));
    await until('the update', () => informer.get(name, namespace)?.data?.x === 'y');
    await core.deleteNamespacedConfigMap({ namespace, name });
    await until('the delete', () => seen.length === 3);
    assert.deepEqual(seen, ['add seen', 'update seen', 'delete seen']);
    await informer.stop();
}

async function statefulSet() {
    const labels = { app: 'web' };
    const readinessProbe = { httpGet: { path: '/healthz', port: 80 }, periodSeconds: 1 };
    const containers = [{ name: 'hello', image: 'mainstay/hello', readinessProbe }];
    const template = { metadata: { labels }, spec: { terminationGracePeriodSeconds: 2, containers } };
    const spec = { serviceName: 'web', replicas: 1, selector: { matchLabels: labels }, template };
    const name = 'web';
    await apps.createNamespacedStatefulSet({ namespace, body: { metadata: { name }, spec } });
    const ready = (count) => until(`${count} ready`, async () => {
        const { status } = await apps.readNamespacedStatefulSet({ namespace, name });
        return status.readyReplicas === count && status.replicas === count;
    });
    await ready(1);
    await streams();
    const body = { spec: { replicas: 2 } };
    const scale = await apps.patchNamespacedStatefulSetScale(
        { namespace, name, body }, as(PatchStrategy.MergePatch));
    assert.equal(scale.spec.replicas, 2);
    await ready(2);
    await apps.deleteNamespacedStatefulSet({ namespace, name });
    await until('no pods', async () =>
        (await core.listNamespacedPod({ namespace })).items.length === 0);
}

/** Exec, log and port-forward. */
async function streams() {
    const run = (command) => new Promise((resolve, reject) => {
        const [out, err] = [new PassThrough(), new PassThrough()];
        const texts = Promise.all([text(out), text(err)]);
        const end = async (status) => {
            out.end();
            err.end();
            resolve([status, ...(await texts)]);
        };
        const exec = new k8s.Exec(config);
        exec.exec(namespace, 'web-0', 'hello', command, out, err, null, false, end).catch(reject);
    });
    const [fine, out] = await run(['/mainstay', 'version']);
    assert.equal(fine.status, 'Success');
    assert.match(out, /^mainstay /);
    const [failed, , err] = await run(['/mainstay', 'nonsense']);
    assert.equal(failed.status, 'Failure');
    assert.deepEqual(failed.details.causes, [{ reason: 'ExitCode', message: '2' }]);
    assert.match(err, /nonsense/);

    const log = new PassThrough();
    await new k8s.Log(config).log(namespace, 'web-0', 'hello', log, { tailLines: 1 });
    assert.equal(await text(log), 'web-0 listens on 0.0.0.0:80\n');

    const [input, output] = [new PassThrough(), new PassThrough()];
    const forward = new k8s.PortForward(config);
    const socket = await forward.portForward(namespace, 'web-0', [80], output, null, input);
    input.write('GET /healthz HTTP/1.1\r\nHost: web\r\n\r\n');
    const [answer] = await once(output, 'data');
    assert.match(answer.toString(), /^HTTP\/1.1 200 OK/);
    socket.close();
}

async function kindOfItsOwn() {
    const group = 'tour.example.com';
    const names = { kind: 'Flower', plural: 'flowers', singular: 'flower' };
    const petals = { type: 'integer', minimum: 3 };
    // The client has names of its own for what are words of its language.
    const open = { type: 'boolean', _default: false };
    const properties = { spec: { type: 'object', properties: { petals, open } } };
    const version = {
        name: 'v1',
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: 'object', properties } },
    };
    const spec = { group, scope: 'Namespaced', names, versions: [version] };
    const name = `flowers.${group}`;
    const extensions = config.makeApiClient(k8s.ApiextensionsV1Api);
    await extensions.createCustomResourceDefinition({ body: { metadata: { name }, spec } });
    await until('Established', async () => {
        const { status } = await extensions.readCustomResourceDefinition({ name });
        const is = (condition) => condition.type === 'Established' && condition.status === 'True';
        return status.conditions?.some(is);
    });

    const custom = config.makeApiClient(k8s.CustomObjectsApi);
    const where = { group, version: 'v1', namespace, plural: 'flowers' };
    const flower = (name, petals) => ({
        apiVersion: `${group}/v1`, kind: 'Flower', metadata: { name }, spec: { petals },
    });
    await custom.createNamespacedCustomObject({ ...where, body: flower('rose', 5) });
    await expectStatus(422, 'Invalid', () =>
        custom.createNamespacedCustomObject({ ...where, body: flower('bad', 1) }));
    const rose = await custom.getNamespacedCustomObject({ ...where, name: 'rose' });
    assert.deepEqual(rose.spec, { petals: 5, open: false });

    // The client of all kinds finds them by discovery.
    const objects = k8s.KubernetesObjectApi.makeApiClient(config);
    const named = (name, petals) => {
        const object = flower(name, petals);
        object.metadata.namespace = namespace;
        return object;
    };
    const apply = (object) => objects.patch(
        object, undefined, undefined, 'tour', true, PatchStrategy.ServerSideApply);
    assert.equal((await apply(named('tulip', 6))).spec.petals, 6);
    const all = await objects.list(`${group}/v1`, 'Flower', namespace);
    assert.deepEqual(all.items.map((item) => item.metadata.name), ['rose', 'tulip']);
    await objects.delete(named('tulip', 6));
    await expectStatus(404, 'NotFound', () => objects.read(named('tulip', 6)));
}

async function reviews() {
    const authorization = config.makeApiClient(k8s.AuthorizationV1Api);
    const resourceAttributes = { verb: 'delete', resource: 'pods', namespace };
    const own = { spec: { resourceAttributes } };
    const mine = await authorization.createSelfSubjectAccessReview({ body: own });
    assert.equal(mine.status.allowed, true);
    const other = { spec: { user: 'jane', resourceAttributes } };
    const others = await authorization.createSubjectAccessReview({ body: other });
    assert.equal(others.status.allowed, false);
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
for (const part of [configMaps, errors, informer, statefulSet, kindOfItsOwn, reviews]) {
    await part();
    console.log(`${part.name}: fine`);
}
await core.deleteNamespace({ name: namespace });
