#!/bin/sh
# Starts Cassandra from the variables that the tutorial's manifest sets.
set -e
cat > /opt/cassandra/conf/cassandra.yaml <<END
cluster_name: ${CASSANDRA_CLUSTER_NAME:-cassandra}
num_tokens: 16
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
commitlog_sync: periodic
commitlog_sync_period_in_ms: 1000
commitlog_total_space_in_mb: 64
commitlog_segment_size_in_mb: 8
data_file_directories: [/cassandra_data/data]
commitlog_directory: /cassandra_data/commitlog
saved_caches_directory: /cassandra_data/saved_caches
disk_access_mode: standard
endpoint_snitch: GossipingPropertyFileSnitch
authenticator: AllowAllAuthenticator
authorizer: AllowAllAuthorizer
request_scheduler: org.apache.cassandra.scheduler.NoScheduler
listen_address: $POD_IP
rpc_address: 0.0.0.0
broadcast_rpc_address: $POD_IP
start_rpc: true
start_native_transport: true
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "$CASSANDRA_SEEDS"
END
cat > /opt/cassandra/conf/cassandra-rackdc.properties <<END
dc=${CASSANDRA_DC:-DC1}
rack=${CASSANDRA_RACK:-Rack1}
END
opened=
for package in java.io java.lang java.lang.ref java.lang.reflect java.math java.net java.nio \
    java.util java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks \
    jdk.internal.misc jdk.internal.ref sun.nio.ch; do
    opened="$opened --add-opens java.base/$package=ALL-UNNAMED"
done
exec java $opened -javaagent:/opt/cassandra/lib/jamm-0.2.6.jar \
    -Xmx"${MAX_HEAP_SIZE:-512M}" -Xmn"${HEAP_NEWSIZE:-100M}" -XX:+UseSerialGC \
    -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true \
    -Dcom.sun.management.jmxremote.port=7199 -Dcom.sun.management.jmxremote.ssl=false \
    -Dcom.sun.management.jmxremote.authenticate=false -Djava.rmi.server.hostname=127.0.0.1 \
    -Dcassandra.storagedir=/cassandra_data -Dcassandra-foreground=yes \
    -Dcassandra.ring_delay_ms=2000 -Dlogback.configurationFile=logback.xml \
    -cp '/opt/cassandra/conf:/opt/cassandra/lib/*' \
    org.apache.cassandra.service.CassandraDaemon
