package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/ballastlb/ballast/lbmodule/app"
)

// expressShown is what the API tells of the express lane.
func expressShown(t *testing.T) (all []app.ExpressServer) {
	t.Helper()
	w := httptest.NewRecorder()
	if err := (adminAPI{}).serve(w, httptest.NewRequest(http.MethodGet, "/load_balancer/express", nil)); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil || all == nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return all
}

// expressApp is the app of a config that serves and has these servers.
func expressApp(t *testing.T, servers ...string) (a *app.App, counts []*app.ExpressCounts) {
	t.Helper()
	a, err := app.Load(newContext(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range servers {
		counts = append(counts, a.AddExpress(app.ExpressServer{Server: name, On: true, Listen: []string{":80"}, Routes: []app.ExpressRoute{}}))
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, a) })
	return a, counts
}

func end(t *testing.T, a *app.App) {
	if err := a.Cleanup(); err != nil {
		t.Error(err)
	}
}

// What is counted goes on over reloads, for as long as there is a server of that name.
func TestExpressIsShown(t *testing.T) {
	if all := expressShown(t); len(all) != 0 {
		t.Errorf("without a config: %+v", all)
	}
	first, counts := expressApp(t, "b", "a")
	counts[0].Serve()
	counts[0].HandOver("upgrade")
	counts[0].HandOver("upgrade")
	want := []app.ExpressServer{
		{Server: "a", On: true, Listen: []string{":80"}, HandedOver: map[string]uint64{}, Routes: []app.ExpressRoute{}},
		{Server: "b", On: true, Listen: []string{":80"}, Served: 1, HandedOver: map[string]uint64{"upgrade": 2}, Routes: []app.ExpressRoute{}},
	}
	if all := expressShown(t); !reflect.DeepEqual(all, want) {
		t.Errorf("got %+v, want %+v", all, want)
	}
	second, counts := expressApp(t, "b")
	counts[0].Serve()
	end(t, first)
	want[1].Served = 2
	if all := expressShown(t); !reflect.DeepEqual(all, want[1:]) {
		t.Errorf("after a reload: %+v, want %+v", all, want[1:])
	}
	end(t, second)
	expressApp(t, "b")
	want[1].Served, want[1].HandedOver = 0, map[string]uint64{}
	if all := expressShown(t); !reflect.DeepEqual(all, want[1:]) {
		t.Errorf("after a config without it: %+v, want %+v", all, want[1:])
	}
}
