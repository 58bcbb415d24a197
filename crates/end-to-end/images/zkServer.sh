#!/bin/sh
# zkServer.sh start-foreground FILE
exec java $JVMFLAGS -Dzookeeper.admin.enableServer=false \
    -cp /etc/zookeeper/conf:/usr/share/java/zookeeper.jar \
    org.apache.zookeeper.server.quorum.QuorumPeerMain "$2"
