# Starts the server of one ledger; the disk may be new.
set -e
mkdir -p /data/ledger
test -f /data/ledger/lines || echo "$TITLE of $(hostname)" > /data/ledger/lines
mkdir -p /run/site/cgi-bin
cp /scripts/lines.sh /run/site/cgi-bin/lines
chmod 755 /run/site/cgi-bin/lines
echo ok > /run/site/healthz
echo "/cgi-bin:$LEDGER_USER:$(cat /secret/password)" > /run/httpd.conf
echo "$(hostname) serves $(wc -l < /data/ledger/lines) lines"
exec busybox httpd -f -v -p 8080 -h /run/site -c /run/httpd.conf
