// Command gorilla echoes over WebSockets of github.com/gorilla/websocket, and says
// 1001 (going away) to each client when it stops.
package main

import (
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	if err := actors.ListenAndServe(&http.Server{Addr: *addr, Handler: http.HandlerFunc(echo)}); err != nil {
		log.Fatal(err)
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	var upgrader websocket.Upgrader
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	defer ws.Close()
	// ReadMessage returns when the client has answered, or after five seconds.
	defer actors.StopOf(r.Context()).OnDraining(func() {
		soon := time.Now().Add(5 * time.Second)
		ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), soon)
		ws.NetConn().SetReadDeadline(soon)
	})()
	for {
		kind, message, err := ws.ReadMessage()
		if err != nil || ws.WriteMessage(kind, message) != nil {
			return
		}
	}
}
