#!/bin/sh
# In the place of the nfs-subdir-external-provisioner: its environment, its directory and its names.
trap 'exit 0' TERM

pending='{range .items[?(@.status.phase=="Pending")]}{.metadata.annotations.volume\.kubernetes\.io/storage-provisioner}{" "}'
pending=$pending'{.metadata.namespace}{" "}{.metadata.name}{" "}{.metadata.uid}{" "}{.spec.storageClassName}{" "}'
pending=$pending'{.spec.resources.requests.storage}{"\n"}{end}'
released='{range .items[?(@.status.phase=="Released")]}{.metadata.annotations.pv\.kubernetes\.io/provisioned-by}{" "}'
released=$released'{.metadata.name}{" "}{.spec.storageClassName}{" "}{.spec.nfs.path}{"\n"}{end}'

while true; do
    kubectl get pvc -A -o jsonpath="$pending" | while read -r by namespace name uid class size; do
        test "$by" = "$PROVISIONER_NAME" || continue
        directory=$namespace-$name-pvc-$uid
        mkdir -p "/persistentvolumes/$directory"
        chmod 777 "/persistentvolumes/$directory"
        kubectl create --validate=false -f - <<END
apiVersion: v1
kind: PersistentVolume
metadata:
  name: pvc-$uid
  annotations: {pv.kubernetes.io/provisioned-by: $PROVISIONER_NAME}
spec:
  storageClassName: $class
  persistentVolumeReclaimPolicy: Delete
  capacity: {storage: $size}
  accessModes: [ReadWriteMany]
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: $namespace, name: $name, uid: $uid}
  nfs: {server: $NFS_SERVER, path: $NFS_PATH/$directory}
END
    done
    kubectl get pv -o jsonpath="$released" | while read -r by name class path; do
        test "$by" = "$PROVISIONER_NAME" || continue
        directory=/persistentvolumes/${path##*/}
        case $(kubectl get storageclass "$class" -o 'jsonpath={.parameters.archiveOnDelete}') in
            false) rm -r "$directory" ;;
            *) mv "$directory" "/persistentvolumes/archived-${path##*/}" ;;
        esac
        kubectl delete pv "$name"
    done
    sleep 1
done
