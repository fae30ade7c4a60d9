#!/bin/sh
# Starts nginx at PORT of HOST, with a directory of its own under DIR.
set -e
dir=$DIR/$PORT
mkdir "$dir"
sed -e "s|LISTEN|$HOST:$PORT|" -e "s|DIR|$dir|" "$(dirname "$0")/nginx.conf" > "$dir/nginx.conf"
head -c 3072 /dev/zero > "$dir/slow"
exec nginx -e stderr -c "$dir/nginx.conf"
