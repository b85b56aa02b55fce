-- The Redis queue of larder: every step of a job as one atomic script.
--
-- KEYS[1] is the prefix of all keys, with the one hash tag; ARGV[1] is the verb. What may happen to a job is
-- defined by larder's pure rules (src/queue/rules.rs); this file says the same in Redis' language, and a
-- property test runs both side by side. Times are microseconds since the epoch by the clock of this server.
--
--   job:<id>              hash     the record, one field each; absent means none
--   jobs:<kind>:<state>   zset     ids by place in the order of asking; the queued by when they became so
--   ready:<kind>:<queue>  zset     queued jobs: score -priority, member place .. id
--   due:<kind>:<queue>    zset     waiting jobs by when they may run
--   leases                zset     running jobs by when their claim ends
--   ended                 zset     kind:state:id by when they ended
--   wants                 hash     queue and want -> the job in flight that does it
--   key:<text>            string   idempotency key -> id, gone a while after the job ended
--   claimed:<nonce>       string   the id that a claim was answered with, for one lease
--   seq                   counter  the order of asking
--   hosts, host:<name>    zset and string: the larders that were there a moment ago
--   layout                string   the version of these keys
-- Channels: to:<queue> says "ready <kind>" and "cancel <id>"; about:<id> says the new state.

local P = KEYS[1]
local CHUNK = 64
local UNENDED = { 'queued', 'waiting', 'planning', 'fetching', 'verifying' }
local NO_PROGRESS = '{"commit":null,"bytes_total":null,"bytes_done":0,"bytes_fetched":0,"files_total":null,"files_done":0}'
local RUNNING = { planning = true, fetching = true, verifying = true }
local ENDED = { ready = true, failed = true, cancelled = true }

local clock = redis.call('TIME')
local NOW = clock[1] * 1000000 + clock[2]

local function int(number) return string.format('%.0f', number) end
local function given(text) if text ~= '' then return text end end

-- Records -------------------------------------------------------------------------------------------------

local function load(id)
  -- A key of another type is no job, and must not stop the others.
  local flat = redis.pcall('HGETALL', P .. 'job:' .. id)
  if flat.err or #flat == 0 then return nil end
  local job = {}
  for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
  return job
end

local function flat(job)
  local out = {}
  for field, value in pairs(job) do out[#out + 1] = field; out[#out + 1] = value end
  return out
end

local function is_whole(job)
  return job.id and job.kind and job.target and job.want and job.job
    and (job.state == 'queued' or job.state == 'waiting' or ENDED[job.state]
      or RUNNING[job.state] and tonumber(job.lease_until))
    and tonumber(job.seq) and tonumber(job.priority) and tonumber(job.attempts) and tonumber(job.token)
end

local function time(job, field) return tonumber(job[field]) end

local function joinable(job) return not ENDED[job.state] and not job.cancel end

local function since(job) return time(job, 'due') or time(job, 'created_at') or 0 end

-- Where a job lies: key -> { score, member }.
local function places(job)
  local where = {}
  local by = job.kind .. ':' .. job.target
  local seq = tonumber(job.seq)
  where[P .. 'jobs:' .. job.kind .. ':' .. job.state] =
    { job.state == 'queued' and since(job) or seq, job.id }
  if job.state == 'queued' then
    where[P .. 'ready:' .. by] = { -tonumber(job.priority), string.format('%016.0f', seq) .. job.id }
  elseif job.state == 'waiting' then
    where[P .. 'due:' .. by] = { since(job), job.id }
  elseif ENDED[job.state] then
    where[P .. 'ended'] = { time(job, 'finished_at'), job.kind .. ':' .. job.state .. ':' .. job.id }
  else
    where[P .. 'leases'] = { time(job, 'lease_until'), job.id }
  end
  return where
end

local function want_of(job) return job.target .. ' ' .. job.want end

-- The job in flight that does the same; one that is not there any more does nothing.
local function rival(job)
  local id = redis.call('HGET', P .. 'wants', want_of(job))
  if not id then return nil end
  if redis.call('EXISTS', P .. 'job:' .. id) == 1 then return id end
  redis.call('HDEL', P .. 'wants', want_of(job))
end

-- Writes what changed between `old` (nil for a new job) and `job`, and moves it to where it lies now. The first
-- write is one that Redis refuses when its memory is full, so a refusal changes nothing.
local function save(old, job)
  local set, gone = {}, {}
  for field, value in pairs(job) do
    if not old or old[field] ~= value then set[#set + 1] = field; set[#set + 1] = value end
  end
  if #set > 0 then redis.call('HSET', P .. 'job:' .. job.id, unpack(set)) end
  for field in pairs(old or {}) do
    if job[field] == nil then gone[#gone + 1] = field end
  end
  if #gone > 0 then redis.call('HDEL', P .. 'job:' .. job.id, unpack(gone)) end
  local before = old and places(old) or {}
  local after = places(job)
  for key, entry in pairs(after) do
    local was = before[key]
    if was and was[2] ~= entry[2] then redis.call('ZREM', key, was[2]); was = nil end
    if not was or was[1] ~= entry[1] then redis.call('ZADD', key, int(entry[1]), entry[2]) end
  end
  for key, entry in pairs(before) do
    if not after[key] then redis.call('ZREM', key, entry[2]) end
  end
  if joinable(job) then
    if not (old and joinable(old)) then redis.call('HSETNX', P .. 'wants', want_of(job), job.id) end
  elseif old and joinable(old) and redis.call('HGET', P .. 'wants', want_of(old)) == job.id then
    redis.call('HDEL', P .. 'wants', want_of(old))
  end
  local waits = job.state == 'queued' or job.state == 'waiting'
  if waits and not (old and old.state == job.state and old.due == job.due) then
    redis.call('PUBLISH', P .. 'to:' .. job.target, 'ready ' .. job.kind)
  end
  if not (old and old.state == job.state) then redis.call('PUBLISH', P .. 'about:' .. job.id, job.state) end
end

local function copy(job)
  local twin = {}
  for field, value in pairs(job) do twin[field] = value end
  return twin
end

local function names(text)
  local fine, list = pcall(cjson.decode, text)
  return fine and type(list) == 'table' and list or {}
end

local function written(list) return #list > 0 and cjson.encode(list) or '[]' end

-- Adds a name within the bounds of a record; says whether it is remembered.
local function remember(job, field, name)
  local list = names(job[field])
  for _, known in ipairs(list) do
    if known == name then return true end
  end
  list[#list + 1] = name
  local text = cjson.encode(list)
  if #list > 64 or #text > 6144 then return false end
  job[field] = text
  return true
end

local function remember_requester(job, name)
  if not name or not remember(job, 'requesters', name) then job.anonymous = '1' end
end

local function remember_key(job, key)
  if key and remember(job, 'keys', key) then redis.call('SET', P .. 'key:' .. key, job.id) end
end

-- Rules ---------------------------------------------------------------------------------------------------

local function quiet(job)
  if not job.progress then return end
  -- The files in flight are the last field; what is not there any more is cut off as text, since this
  -- language cannot write back every JSON that it reads.
  local at = string.find(job.progress, ',"active":[', 1, true)
  if at then job.progress = string.sub(job.progress, 1, at - 1) .. '}' end
end

local function finish(job, state, retention)
  job.state = state
  job.due = nil
  job.lease_until = nil
  job.nonce = nil
  quiet(job)
  job.finished_at = int(NOW)
  -- The reaper forgets it at its time; the server does if no reaper is there.
  local ttl = int(retention / 1000 + 60000)
  redis.call('PEXPIRE', P .. 'job:' .. job.id, ttl)
  for _, key in ipairs(names(job.keys)) do redis.call('PEXPIRE', P .. 'key:' .. key, ttl) end
end

local function fail(job, reason, message, retention)
  job.reason = reason
  job.message = message
  finish(job, 'failed', retention)
end

local function miss_deadline(job, retention)
  local before = job.message and ' (before: ' .. job.message .. ')' or ''
  fail(job, 'deadline_missed', 'the job was not done by its deadline; hint: ask again with a later one, or with none'
    .. before, retention)
end

local function call_off(job, retention)
  job.reason = 'cancelled'
  finish(job, 'cancelled', retention)
end

local function snooze(job, reason, message, due, retention)
  local deadline = time(job, 'deadline')
  if deadline and deadline <= due then
    job.message = message
    return miss_deadline(job, retention)
  end
  job.reason = reason
  job.message = message
  job.state = 'waiting'
  job.due = int(due)
  quiet(job)
end

local function requeue(job)
  job.state = 'queued'
  job.reason = nil
  job.due = int(NOW)
  quiet(job)
end

local function wake(job)
  local due = time(job, 'due')
  if job.state == 'waiting' and not (due and due > NOW) then
    job.state = 'queued'
    job.reason = nil
  end
end

-- Follows the clock, so that a token which this server may have forgotten is never given twice.
local function next_token(job) return int(math.max(tonumber(job.token) + 1, NOW)) end

local function give_attempt_back(job) job.attempts = int(math.max(tonumber(job.attempts) - 1, 0)) end

-- What cannot be read becomes a dead letter: a clean record that keeps the payload and says what was wrong.
local function bury(id, job, kind, target, retention, reason, message, payload)
  local dead = {
    v = '1', id = id, kind = kind, target = target, want = job.want or '', priority = '0', attempts = '0',
    token = '0', anonymous = '1', requesters = '[]', keys = '[]', progress = NO_PROGRESS, state = 'queued',
    seq = tonumber(job.seq) and job.seq or int(redis.call('INCR', P .. 'seq') - 1),
    created_at = tonumber(job.created_at) and job.created_at or int(NOW),
    job = payload or job.job or cjson.encode(job),
  }
  local rest = copy(dead)
  fail(dead, reason or 'invalid_request', message
    or 'the record of the job is damaged; hint: ask for the job again if it is still wanted', retention)
  -- What it was before is unknown, so every place that it may lie in is looked at.
  redis.call('DEL', P .. 'job:' .. id)
  save(nil, dead)
  redis.call('PEXPIRE', P .. 'job:' .. id, int(retention / 1000 + 60000))
  for _, state in ipairs(UNENDED) do redis.call('ZREM', P .. 'jobs:' .. kind .. ':' .. state, id) end
  redis.call('ZREM', P .. 'leases', id)
  if redis.call('HGET', P .. 'wants', want_of(rest)) == id then redis.call('HDEL', P .. 'wants', want_of(rest)) end
  return dead
end

-- Verbs ---------------------------------------------------------------------------------------------------

local verbs = {}

-- id kind target want job priority deadline not_before requester key pin max_queued
-- -> created, job; or FULL and how many wait
function verbs.enqueue(id, kind, target, want, payload, priority, deadline, not_before, requester, key, pin, most)
  deadline, not_before, requester, key = given(deadline), given(not_before), given(requester), given(key)
  local known = key and redis.call('GET', P .. 'key:' .. key)
  local keyed = known and load(known)
  -- The answer to the first try may have got lost.
  if keyed then return { keyed.id == id and 1 or 0, flat(keyed) } end
  local wanted = redis.call('HGET', P .. 'wants', target .. ' ' .. want)
  local old = wanted and load(wanted)
  if old and old.id == id then return { 1, flat(old) } end
  if old and is_whole(old) then
    local job = copy(old)
    job.priority = int(math.max(tonumber(job.priority), tonumber(priority)))
    if deadline and (not job.deadline or tonumber(deadline) < tonumber(job.deadline)) then
      job.deadline = deadline
    end
    remember_requester(job, requester)
    remember_key(job, key)
    if pin == '1' then job.pin = '1' end
    if job.state == 'waiting' and not job.reason then
      local due = not_before and tonumber(not_before) or NOW
      if job.due then job.due = int(math.min(tonumber(job.due), due)) end
      wake(job)
    end
    save(old, job)
    return { 0, flat(job) }
  end
  local backlog = redis.call('ZCARD', P .. 'jobs:' .. kind .. ':queued')
    + redis.call('ZCARD', P .. 'jobs:' .. kind .. ':waiting')
  if backlog >= tonumber(most) then return 'FULL ' .. int(backlog) end
  local due = not_before and tonumber(not_before) > NOW and not_before or nil
  if wanted then redis.call('HDEL', P .. 'wants', target .. ' ' .. want) end
  local job = {
    v = '1', id = id, kind = kind, target = target, want = want, job = payload, priority = priority,
    state = due and 'waiting' or 'queued', due = due, deadline = deadline, attempts = '0', token = '0',
    created_at = int(NOW), seq = int(redis.call('INCR', P .. 'seq') - 1), requesters = '[]', keys = '[]',
    progress = NO_PROGRESS,
  }
  remember_requester(job, requester)
  remember_key(job, key)
  save(nil, job)
  return { 1, flat(job) }
end

-- kind host nonce again lease retention target... -> {1, job, missed} or {0, wait, missed}: what it may do, or how
-- long until it may do something; and the jobs that it found too late for their deadline
function verbs.claim(kind, host, nonce, again, lease, retention, ...)
  if again == '1' then
    local id = redis.call('GET', P .. 'claimed:' .. nonce)
    local job = id and load(id)
    if job and job.nonce == nonce and RUNNING[job.state] then
      local held = copy(job)
      held.lease_until = int(NOW + lease)
      save(job, held)
      return { 1, flat(held), {} }
    end
  end
  local targets, missed = { ... }, {}
  for _ = 1, CHUNK do
    local id, target
    for _, queue in ipairs(targets) do
      local by = kind .. ':' .. queue
      for _, due in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due:' .. by, '-inf', int(NOW), 'LIMIT', 0, CHUNK)) do
        local old = load(due)
        if old and is_whole(old) and old.state == 'waiting' then
          local job = copy(old)
          wake(job)
          save(old, job)
        else
          redis.call('ZREM', P .. 'due:' .. by, due)
          if old and not is_whole(old) then bury(due, old, kind, queue, retention) end
        end
      end
      local first = redis.call('ZRANGE', P .. 'ready:' .. by, 0, 0)[1]
      if first then
        id, target = string.sub(first, 17), queue
        local old = load(id)
        if not old or not is_whole(old) or old.kind ~= kind or old.state ~= 'queued' then
          redis.call('ZREM', P .. 'ready:' .. by, first)
          if old and (not is_whole(old) or old.kind ~= kind) then bury(id, old, kind, queue, retention) end
        else
          local job = copy(old)
          local deadline = time(job, 'deadline')
          if deadline and deadline <= NOW then
            miss_deadline(job, retention)
            save(old, job)
            missed[#missed + 1] = flat(job)
          else
            job.state = 'planning'
            job.reason = nil
            job.due = nil
            job.attempts = int(tonumber(job.attempts) + 1)
            job.token = next_token(job)
            job.lease_until = int(NOW + lease)
            job.started_at = job.started_at or int(NOW)
            job.owner = host
            job.nonce = nonce
            save(old, job)
            redis.call('SET', P .. 'claimed:' .. nonce, id, 'PX', int(math.max(lease / 1000, 1)))
            return { 1, flat(job), missed }
          end
        end
        break
      end
    end
    if not id then break end
  end
  local next
  for _, queue in ipairs(targets) do
    local due = redis.call('ZRANGE', P .. 'due:' .. kind .. ':' .. queue, 0, 0, 'WITHSCORES')[2]
    if due then next = math.min(next or math.huge, tonumber(due)) end
    -- More than this step could look at: come again at once.
    if redis.call('EXISTS', P .. 'ready:' .. kind .. ':' .. queue) == 1 then next = NOW end
  end
  return { 0, next and int(math.max(next - NOW, 0)) or '', missed }
end

-- id token state progress lease -> held, cancel; or the word that says why not
function verbs.renew(id, token, state, progress, lease)
  local old = load(id)
  if not old then return 'GONE' end
  if old.token ~= token or not RUNNING[old.state] then return 'LOST' end
  local job = copy(old)
  if RUNNING[state] then job.state = state end
  job.progress = progress
  job.lease_until = int(NOW + lease)
  save(old, job)
  return job.cancel and 'CANCEL' or 'HELD'
end

-- id token how reason message pause max_attempts retention progress path payload -> job
function verbs.settle(id, token, how, reason, message, pause, max_attempts, retention, progress, path, payload)
  local old = load(id)
  if not old then return 'GONE' end
  if old.token ~= token or token == '0' then return 'LOST' end
  -- This token has settled before, and the answer got lost.
  if not RUNNING[old.state] then return flat(old) end
  local job = copy(old)
  job.lease_until = nil
  job.nonce = nil
  if how == 'done' then
    job.progress, job.path, job.reason, job.message = progress, given(path), nil, nil
    finish(job, 'ready', retention)
  elseif how == 'fail' and reason == 'deadline_missed' then
    miss_deadline(job, retention)
  elseif how == 'fail' then
    job.job = given(payload) or job.job
    fail(job, reason, message, retention)
  elseif how == 'cancelled' or job.cancel then
    call_off(job, retention)
  elseif how == 'retry' and tonumber(job.attempts) >= tonumber(max_attempts) then
    fail(job, reason, message .. ' (given up after ' .. job.attempts .. ' attempts)', retention)
  elseif how == 'retry' then
    snooze(job, reason, message, NOW + pause, retention)
  elseif how == 'wait' then
    give_attempt_back(job)
    snooze(job, reason, message, NOW + pause, retention)
  else
    give_attempt_back(job)
    requeue(job)
  end
  save(old, job)
  return flat(job)
end

-- id token kind reason message payload retention -> nothing; of a claimed job that its worker cannot read
function verbs.bury(id, token, kind, reason, message, payload, retention)
  local old = load(id)
  if old and old.token == token then
    bury(id, old, kind, old.target or 'pool', retention, reason, message, payload)
  end
end

-- id requester retention -> outcome, job
function verbs.cancel(id, requester, retention)
  local old = load(id)
  if not old then return 'GONE' end
  if ENDED[old.state] then return { 'over', flat(old) } end
  local job = copy(old)
  if requester ~= '' then
    local left = {}
    for _, name in ipairs(names(job.requesters)) do
      if name ~= requester then left[#left + 1] = name end
    end
    job.requesters = written(left)
    if job.anonymous or #left > 0 then
      save(old, job)
      return { 'wanted', flat(job) }
    end
  end
  if RUNNING[job.state] then
    job.cancel = '1'
    save(old, job)
    if job.owner then redis.call('PUBLISH', P .. 'to:host:' .. job.owner, 'cancel ' .. id) end
    return { 'stopping', flat(job) }
  end
  call_off(job, retention)
  save(old, job)
  return { 'ended', flat(job) }
end

-- id -> job, or the state that forbids it, or the job in flight that does the same
function verbs.retry(id)
  local old = load(id)
  if not old then return 'GONE' end
  if old.state ~= 'failed' and old.state ~= 'cancelled' then return 'STATE ' .. old.state end
  local other = rival(old)
  if other then return 'TAKEN ' .. other end
  local job = copy(old)
  job.attempts = '0'
  job.cancel, job.message, job.started_at, job.finished_at = nil, nil, nil, nil
  local deadline = time(job, 'deadline')
  if deadline and deadline <= NOW then job.deadline = nil end
  if #names(job.requesters) == 0 then job.anonymous = '1' end
  requeue(job)
  save(old, job)
  redis.call('PERSIST', P .. 'job:' .. id)
  for _, key in ipairs(names(job.keys)) do redis.call('SET', P .. 'key:' .. key, id) end
  return flat(job)
end

-- limit max_attempts retention max_finished -> returned and ended jobs, number of forgotten ones
function verbs.reap(limit, max_attempts, retention, max_finished)
  local reaped = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', int(NOW), 'LIMIT', 0, limit)) do
    local old = load(id)
    if not old or not is_whole(old) or not RUNNING[old.state] then
      redis.call('ZREM', P .. 'leases', id)
      if old and not is_whole(old) then bury(id, old, old.kind or 'download', old.target or 'pool', retention) end
    else
      local job = copy(old)
      job.lease_until = nil
      job.nonce = nil
      job.token = next_token(job)
      if job.cancel then
        call_off(job, retention)
      elseif tonumber(job.attempts) >= tonumber(max_attempts) then
        fail(job, 'lease_lost', 'the worker vanished in attempt ' .. job.attempts .. ' of ' .. job.attempts
          .. '; hint: look for a crash in the log of the host, then retry the job', retention)
      else
        requeue(job)
      end
      save(old, job)
      reaped[#reaped + 1] = { flat(old), flat(job) }
    end
  end
  local surplus = redis.call('ZCARD', P .. 'ended') - max_finished
  local old = redis.call('ZRANGEBYSCORE', P .. 'ended', '-inf', int(NOW - retention), 'LIMIT', 0, limit)
  if surplus > #old then old = redis.call('ZRANGE', P .. 'ended', 0, math.min(surplus, limit) - 1) end
  for _, member in ipairs(old) do
    local kind, state, id = string.match(member, '^(.-):(.-):(.*)$')
    local keys = redis.call('HGET', P .. 'job:' .. id, 'keys')
    for _, key in ipairs(names(keys)) do
      if redis.call('GET', P .. 'key:' .. key) == id then redis.call('DEL', P .. 'key:' .. key) end
    end
    redis.call('ZREM', P .. 'jobs:' .. kind .. ':' .. state, id)
    redis.call('ZREM', P .. 'ended', member)
    redis.call('DEL', P .. 'job:' .. id)
  end
  return { reaped, #old }
end

-- limit state kind... ; an empty state means every one -> jobs, the newest first
function verbs.list(limit, state, ...)
  local states = state ~= '' and { state }
    or { 'queued', 'waiting', 'planning', 'fetching', 'verifying', 'ready', 'failed', 'cancelled' }
  local found = {}
  for _, kind in ipairs({ ... }) do
    for _, word in ipairs(states) do
      for _, id in ipairs(redis.call('ZREVRANGE', P .. 'jobs:' .. kind .. ':' .. word, 0, limit - 1)) do
        local seq = redis.call('HGET', P .. 'job:' .. id, 'seq')
        if seq then found[#found + 1] = { tonumber(seq) or 0, id } end
      end
    end
  end
  table.sort(found, function(a, b) if a[1] ~= b[1] then return a[1] > b[1] end return a[2] > b[2] end)
  local jobs = {}
  for n = 1, math.min(#found, tonumber(limit)) do jobs[n] = redis.call('HGETALL', P .. 'job:' .. found[n][2]) end
  return jobs
end

-- kind state... -> for each state how many, then the age of the oldest queued one in microseconds, or ''
function verbs.stats(kind, ...)
  local counts = {}
  for n, state in ipairs({ ... }) do counts[n] = redis.call('ZCARD', P .. 'jobs:' .. kind .. ':' .. state) end
  local oldest = redis.call('ZRANGE', P .. 'jobs:' .. kind .. ':queued', 0, 0, 'WITHSCORES')[2]
  counts[#counts + 1] = oldest and int(math.max(NOW - tonumber(oldest), 0)) or ''
  return counts
end

-- lease field value ... -> whether it was put: a job that this server has forgotten, unless another one does the
-- same. A running one is its worker's for a lease from now on, as the worker's own clock may be wrong; '' leaves it
function verbs.restore(lease, ...)
  local job, list = {}, { ... }
  for i = 1, #list, 2 do job[list[i]] = list[i + 1] end
  if lease ~= '' and RUNNING[job.state] then job.lease_until = int(NOW + lease) end
  if redis.call('EXISTS', P .. 'job:' .. job.id) == 1 then return 1 end
  if joinable(job) and rival(job) then return 0 end
  if tonumber(redis.call('GET', P .. 'seq') or 0) <= tonumber(job.seq) then
    redis.call('SET', P .. 'seq', int(tonumber(job.seq) + 1))
  end
  save(nil, job)
  for _, key in ipairs(names(job.keys)) do redis.call('SET', P .. 'key:' .. key, job.id, 'NX') end
  return 1
end

-- host instance ttl -> whether the queue was new or emptied, and who was there under that name before
function verbs.attend(host, instance, ttl)
  local fresh = redis.call('SET', P .. 'layout', '1', 'NX')
  local before = redis.call('GET', P .. 'host:' .. host)
  redis.call('SET', P .. 'host:' .. host, instance, 'PX', ttl)
  redis.call('ZADD', P .. 'hosts', int(NOW), host)
  redis.call('ZREMRANGEBYSCORE', P .. 'hosts', '-inf', int(NOW - ttl * 1000))
  return { fresh and 1 or 0, before or '' }
end

-- host instance -> nothing; it leaves
function verbs.leave(host, instance)
  if redis.call('GET', P .. 'host:' .. host) == instance then
    redis.call('DEL', P .. 'host:' .. host)
    redis.call('ZREM', P .. 'hosts', host)
  end
end

local verb = verbs[ARGV[1]]
if not verb then return redis.error_reply('VERB ' .. tostring(ARGV[1])) end
return verb(unpack(ARGV, 2))
