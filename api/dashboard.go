package api

// PathDashboard is where the dashboard's pages are. They are for browsers: `holdfast
// dashboard` brings them to a TCP port.
const PathDashboard = Prefix + "/dashboard/"
