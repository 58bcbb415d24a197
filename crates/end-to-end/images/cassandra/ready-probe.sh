#!/bin/bash
# Clients are let in once the node has joined the ring.
: < "/dev/tcp/$POD_IP/9042"
