#!lua name=larder
-- The door to larder for programs in other languages, version 3: FCALL larder_enqueue and FCALL larder_job.
--
-- A request is put into the inbox as it came; a larder takes it from there, checks it as it checks every request, and
-- queues it under the same id. KEYS[1] is the prefix of all keys, `{larder}:` unless queue.namespace says otherwise.
-- `larder serve` loads this library; by hand: larder config functions | redis-cli -x FUNCTION LOAD REPLACE

-- The newest version of a request, and of the keys, that is known here.
local VERSION, LAYOUT = 1, 1
-- Most requests that wait in the inbox, and most bytes of one.
local MOST, LONGEST = 10000, 8192
-- Hosts that are told before all of them are.
local TOLD = 3
local DIGITS = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

local function refuse(reason, what, hint) return redis.error_reply(reason .. ' ' .. what .. '; hint: ' .. hint) end

local function digit(value) return string.sub(DIGITS, value + 1, value + 1) end

-- An id as every job has one (ULID): ten digits of the time, sixteen that no other request of this server has.
local function new_id(P, payload)
  local clock = redis.call('TIME')
  local millis = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local head = ''
  for _ = 1, 10 do
    head = digit(millis % 32) .. head
    millis = math.floor(millis / 32)
  end
  local hash = redis.sha1hex(clock[1] .. '.' .. clock[2] .. ' ' .. redis.call('INCR', P .. 'asked') .. ' ' .. payload)
  local tail = ''
  -- Five hexadecimal digits are four of these.
  for at = 1, 20, 5 do
    local bits = tonumber(string.sub(hash, at, at + 4), 16)
    local four = ''
    for _ = 1, 4 do
      four = digit(bits % 32) .. four
      bits = math.floor(bits / 32)
    end
    tail = tail .. four
  end
  return head .. tail
end

local function is_id(text) return #text == 26 and string.find(text, '^[0-7][' .. DIGITS .. ']+$') ~= nil end

-- A job as a table; nil if there is none under that id. The long values of an ended one go on in <name>:1 and so on.
local function load(P, id)
  local raw = redis.call('HGETALL', P .. 'job:' .. id)
  local job, more = {}, {}
  for i = 1, #raw, 2 do
    local name, n = string.match(raw[i], '^(.-):(%d+)$')
    if name then
      more[name] = more[name] or {}
      more[name][tonumber(n)] = raw[i + 1]
    else
      job[raw[i]] = raw[i + 1]
    end
  end
  for name, pieces in pairs(more) do job[name] = (job[name] or '') .. table.concat(pieces) end
  return #raw > 0 and job or nil
end

-- The job that a request led to under this id, and the id of what it led to if that had been another's before.
local function led_to(P, id)
  local job = load(P, id)
  if job then return job end
  local other = redis.call('GET', P .. 'key:' .. id)
  return other and load(P, other), other
end

-- The entry of the inbox with this id.
local function waits(P, id)
  return redis.call('ZRANGE', P .. 'inbox', '[' .. id, '[' .. id .. '\255', 'BYLEX', 'LIMIT', 0, 1)[1]
end

-- JSON of fields and values, in this order; `false` is null, a list of one text is JSON already.
local function object(list)
  local parts = {}
  for i = 1, #list, 2 do
    local value = list[i + 1]
    local text = 'null'
    if type(value) == 'table' then
      text = value[1]
    elseif value then
      text = cjson.encode(value)
    end
    parts[#parts + 1] = cjson.encode(list[i]) .. ':' .. text
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

-- Of a new request nobody knows yet whether it is a new job or joins one in flight: `created` is null.
local function accepted(id, created, state)
  local word = created ~= nil and { tostring(created) } or false
  return object({ 'v', { '1' }, 'id', id, 'created', word, 'state', state })
end

local function is_equal(one, other)
  if type(one) ~= 'table' or type(other) ~= 'table' then return one == other end
  for name, value in pairs(one) do
    if not is_equal(value, other[name]) then return false end
  end
  for name in pairs(other) do
    if one[name] == nil then return false end
  end
  return true
end

-- Whether a job was asked for in the same words; of any others the larder that takes the request knows what they mean.
local function was_asked_so(job, request)
  local fine, asked = pcall(cjson.decode, job.job)
  if not fine or type(asked) ~= 'table' then return true end
  asked.v, asked.requested_by = request.v, request.requested_by
  -- The one default that is written down.
  if asked.revision == 'main' and request.revision == nil then asked.revision = nil end
  return is_equal(asked, request)
end

-- What is wrong with a request, as far as it can be seen here.
local function fault(payload, id)
  if type(payload) ~= 'string' or #payload > LONGEST then
    return refuse('invalid_request', 'a request is one JSON object of at most 8 KiB',
      'FCALL larder_enqueue 1 {larder}: \'{"v":1,"kind":"download","repo":"owner/name","hosts":"pool"}\'')
  end
  local fine, job = pcall(cjson.decode, payload)
  if not fine or type(job) ~= 'table' or job[1] ~= nil or not string.find(payload, '^%s*{') then
    return refuse('invalid_request', 'the request is no JSON object', 'see jobs/schema/job.v1.json')
  end
  local v = job.v == nil and 1 or job.v
  if type(v) ~= 'number' or v < 1 or v ~= math.floor(v) then
    return refuse('invalid_request', '`v` is not a version', 'send "v":1, or leave it out')
  end
  if v > VERSION then
    return refuse('unsupported_version', 'the request has version ' .. v .. ', and this library knows ' .. VERSION,
      'load the library of a newer larder: larder config functions')
  end
  if type(job.kind) ~= 'string' then
    return refuse('invalid_request', '`kind` is missing', 'add "kind":"download"')
  end
  if job.hosts == nil or job.hosts == 'this' then
    return refuse('invalid_request', 'the request is for "this" host, and Redis is none',
      'set "hosts" to ["a-host"], or to "pool" for any one')
  end
  if id and not is_id(id) then
    return refuse('invalid_request', 'the id is no ULID', 'leave it out, or use 26 digits of Crockford\'s base 32')
  end
  return nil, job
end

-- Tells one larder that is there, the next one if nobody listens, and all of them at last.
local function tell(P, place)
  local hosts = redis.call('ZCARD', P .. 'hosts')
  for n = 1, math.min(TOLD, hosts) do
    local at = (place + n) % hosts
    local host = redis.call('ZRANGE', P .. 'hosts', at, at)[1]
    if redis.call('PUBLISH', P .. 'to:host:' .. host, 'inbox') > 0 then return end
  end
  redis.call('PUBLISH', P .. 'to:pool', 'inbox')
end

-- prefix; json [id] -> {"v":1,"id":…,"created":…,"state":…}; repeating it with the same id changes nothing
local function enqueue(keys, args)
  local P, payload, id = keys[1], args[1], args[2]
  if type(P) ~= 'string' or not string.find(P, '^{[%w%._%-]+}:$') then
    return refuse('invalid_request', 'the key is not the prefix of a queue', 'write {larder}: with its braces and colon')
  end
  local wrong, job = fault(payload, id)
  if wrong then return wrong end
  local layout = redis.call('GET', P .. 'layout')
  if layout and tonumber(layout) > LAYOUT then
    return refuse('unsupported_version', 'the queue was written by a newer larder', 'load its library')
  end
  if id then
    if waits(P, id) then return accepted(id, nil, 'queued') end
    local known, other = led_to(P, id)
    if known then return accepted(known.id, not other, known.state) end
  end
  local key = type(job.idempotency_key) == 'string' and redis.call('GET', P .. 'key:' .. job.idempotency_key)
  local known = key and load(P, key)
  if known and was_asked_so(known, job) then return accepted(known.id, false, known.state) end
  local waiting = redis.call('ZCARD', P .. 'inbox')
  if waiting >= MOST then
    return refuse('queue_unavailable', waiting .. ' requests wait in the inbox and no larder takes them',
      'start larder serve, or see its log; then ask again')
  end
  id = id or new_id(P, payload)
  redis.call('ZADD', P .. 'inbox', 0, id .. payload)
  tell(P, waiting)
  return accepted(id, nil, 'queued')
end

-- What the jobs for several hosts come to: the state of the first of these words that one of them has.
local WEIGHTY = { 'fetching', 'verifying', 'planning', 'running', 'queued', 'waiting', 'failed', 'cancelled', 'ready', 'done' }
local function state_of(P, jobs)
  local there = {}
  for _, id in ipairs(cjson.decode(jobs)) do
    local state = redis.call('HGET', P .. 'job:' .. id, 'state')
    if state then there[state] = true end
  end
  for _, state in ipairs(WEIGHTY) do
    if there[state] then return state end
  end
  return 'done'
end

-- prefix; id -> the job as JSON, also by the id of a request that joined another job
local function show(keys, args)
  local P, id = keys[1], args[1]
  if type(P) ~= 'string' or type(id) ~= 'string' or not is_id(id) then
    return refuse('invalid_request', 'the id is no ULID', 'FCALL larder_job 1 {larder}: ID')
  end
  local job, other = led_to(P, id)
  if job then
    local progress = job.progress and string.sub(job.progress, 1, 1) == '{' and { job.progress }
    return object({ 'v', { '1' }, 'id', job.id, 'kind', job.kind, 'state', job.state, 'reason', job.reason or false,
      'message', job.message or false, 'path', job.path or false, 'host', job.owner or false, 'attempts',
      { tostring(tonumber(job.attempts) or 0) }, 'progress', progress or false })
  end
  local jobs = redis.call('HGET', P .. 'batch:' .. (other or id), 'jobs')
  if jobs then return object({ 'v', { '1' }, 'id', other or id, 'state', state_of(P, jobs), 'jobs', { jobs } }) end
  if waits(P, id) then
    return object({ 'v', { '1' }, 'id', id, 'kind', false, 'state', 'queued', 'reason', false, 'message', false,
      'path', false, 'host', false, 'attempts', { '0' }, 'progress', false })
  end
  return refuse('not_found', 'there is no job ' .. tostring(id), 'ended jobs are forgotten after queue.retention')
end

redis.register_function('larder_enqueue', enqueue)
redis.register_function { function_name = 'larder_job', callback = show, flags = { 'no-writes' } }
