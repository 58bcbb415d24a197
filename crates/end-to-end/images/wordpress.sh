#!/bin/sh
# The program's files come to the web server's directory once; its settings are made anew from
# WORDPRESS_DB_* at each start.
set -e
if [ ! -e wp-config.php ]; then
    cp -rL /usr/share/wordpress/. .
    mkdir -p wp-content/uploads
    chown -R www-data:www-data wp-content
fi
cat > wp-config.php <<END
<?php
define('DB_HOST', '$WORDPRESS_DB_HOST');
define('DB_USER', '$WORDPRESS_DB_USER');
define('DB_PASSWORD', '$WORDPRESS_DB_PASSWORD');
define('DB_NAME', '$WORDPRESS_DB_NAME');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
\$table_prefix = 'wp_';
define('AUTOMATIC_UPDATER_DISABLED', true);
define('ABSPATH', __DIR__ . '/');
require_once ABSPATH . 'wp-settings.php';
END
exec "$@"
