#!/bin/sh
# GET lists the lines, POST appends one.
if [ "$REQUEST_METHOD" = POST ]; then
    head -c "$CONTENT_LENGTH" >> /data/ledger/lines
    echo >> /data/ledger/lines
    sync
fi
printf 'Content-Type: text/plain\r\n\r\n'
cat /data/ledger/lines
