#!/bin/sh
# Runs Spark's computation of pi on a server, with one executor. It needs root, pip, umoci, skopeo and a Java runtime:
#   spark.sh image DIRECTORY             writes DIRECTORY/spark.tar, an image for `mainstay image import`
#   spark.sh run DIRECTORY KUBECONFIG    submits the job, and waits for its end
set -e
mode=$1
directory=$(realpath "$2")

make_image() {
    packages="$directory/packages"
    root="$directory/root"
    mkdir -p "$packages/partial" "$root"
    : >"$directory/status"
    apt-get install --yes --quiet --download-only --no-install-recommends \
        -o "Dir::State::status=$directory/status" -o "Dir::Cache::archives=$packages" -o Debug::NoLocking=1 \
        bash busybox-static coreutils openjdk-17-jre-headless procps python3
    for part in bin sbin lib lib64; do
        mkdir -p "$root/usr/$part"
        ln -sfn "usr/$part" "$root/$part"
    done
    for package in "$packages"/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
    done
    mkdir -p "$root/tmp" "$root/proc" "$root/sys" "$root/dev" "$root/etc" "$root/opt/spark/work-dir"
    chmod 1777 "$root/tmp" "$root/opt/spark/work-dir"
    printf 'root:x:0:0:root:/root:/bin/sh\nspark:x:185:185:spark:/:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\nspark:x:185:\n' >"$root/etc/group"
    for program in grep sed; do
        [ -e "$root/bin/$program" ] || ln -s busybox "$root/bin/$program"
    done
    ln -sfn python3.11 "$root/usr/bin/python3"
    ln -sfn "/$(cd "$root" && echo usr/lib/jvm/java-17-openjdk-*)" "$root/opt/java"
    pip install --quiet --target "$directory/python" pyspark==3.5.9
    cp -r "$directory/python/pyspark/bin" "$directory/python/pyspark/jars" "$directory/python/pyspark/python" \
        "$root/opt/spark"
    cp "$directory/python/pyspark/examples/src/main/python/pi.py" "$root/opt/spark"
    cp "$(dirname "$0")/spark-entrypoint.sh" "$root/opt/entrypoint.sh"
    umoci init --layout "$directory/layout"
    umoci new --image "$directory/layout:spark"
    umoci insert --image "$directory/layout:spark" "$root" /
    umoci config --image "$directory/layout:spark" --config.entrypoint /opt/entrypoint.sh \
        --config.env PATH=/usr/local/bin:/usr/bin:/bin --config.env JAVA_HOME=/opt/java
    skopeo copy --quiet "oci:$directory/layout:spark" \
        "docker-archive:$directory/spark.tar:docker.io/library/spark:3"
}

run_job() {
    kubectl="kubectl --kubeconfig $1"
    $kubectl create namespace spark
    $kubectl -n spark create serviceaccount spark
    $kubectl -n spark create rolebinding spark --clusterrole edit --serviceaccount spark:spark
    # Spark has no library that reads the administrator's key, which is of an elliptic curve.
    token=$($kubectl -n spark create token spark)
    sed "/client-key-data/d; s/client-certificate-data: .*/token: $token/" "$1" >"$directory/kubeconfig"
    chmod 600 "$directory/kubeconfig"
    server=$($kubectl config view --minify -o 'jsonpath={.clusters[0].cluster.server}')
    export KUBECONFIG="$directory/kubeconfig" SPARK_HOME="$directory/python/pyspark"
    "$SPARK_HOME/bin/spark-submit" --master "k8s://$server" --deploy-mode cluster --name pi \
        --conf spark.kubernetes.namespace=spark \
        --conf spark.kubernetes.authenticate.driver.serviceAccountName=spark \
        --conf spark.kubernetes.container.image=spark:3 \
        --conf spark.executor.instances=1 --conf spark.executor.memory=512m --conf spark.driver.memory=512m \
        --conf spark.kubernetes.driver.request.cores=100m --conf spark.kubernetes.executor.request.cores=100m \
        local:///opt/spark/pi.py 2
    $kubectl -n spark logs --selector spark-role=driver --tail=-1 | grep 'Pi is roughly'
}

case "$mode" in
image) make_image ;;
run) run_job "$3" ;;
*) echo "spark.sh image DIRECTORY | spark.sh run DIRECTORY KUBECONFIG" >&2 && exit 2 ;;
esac
