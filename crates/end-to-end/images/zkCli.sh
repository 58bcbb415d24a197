#!/bin/sh
exec java -cp /etc/zookeeper/conf:/usr/share/java/zookeeper.jar \
    org.apache.zookeeper.ZooKeeperMain "$@"
