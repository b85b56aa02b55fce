-- The inbox: requests that programs put there with the functions of function.lua, which cannot check them or know what
-- they want. An entry is id .. json; one that was taken out by another step is no more there, so each is taken once.

local function entry_of(id)
  return redis.call('ZRANGE', P .. 'inbox', '[' .. id, '[' .. id .. '\255', 'BYLEX', 'LIMIT', 0, 1)[1]
end

-- From now on the request's id leads to a job or a batch that does the same: as a key of that, which lives as long as it.
local function lead_to(id, joined, retention)
  local old = load(joined)
  local job = old and draft(old)
  if job and not ENDED[old.state] and remember(job, 'keys', id) then
    redis.call('SET', P .. 'key:' .. id, joined)
    return save(old, job)
  end
  if remember_batch_key(joined, id) then return end
  redis.call('SET', P .. 'key:' .. id, joined, 'PX', int(retention / 1000 + 60000))
end

-- Whoever was about to look need not.
local function take_out(entry)
  redis.call('ZREM', P .. 'inbox', entry)
  if redis.call('EXISTS', P .. 'inbox') == 0 then redis.call('PUBLISH', P .. 'to:pool', 'none inbox') end
end

-- id led retention -> nothing; the request was queued under the id `led`, which is another one if that does the same
local function handled(id, led, retention)
  local entry = entry_of(id)
  if not entry then return end
  if led ~= id then lead_to(id, led, retention) end
  take_out(entry)
end

-- skip limit -> entries of the inbox behind so many; what is none is thrown away
local function waiting_requests(skip, limit)
  local entries = {}
  for _, entry in ipairs(redis.call('ZRANGE', P .. 'inbox', int(skip), int(skip + limit - 1))) do
    if string.find(string.sub(entry, 1, 26), '^[0-7][0-9A-HJKMNP-TV-Z]+$') and #entry > 26 then
      entries[#entries + 1] = entry
    else
      redis.call('ZREM', P .. 'inbox', entry)
    end
  end
  return entries
end

-- `enqueue` is that step; its arguments, and how long an ended job is kept -> as that step, or nothing if the request
-- was taken before
local function deliver(enqueue, id, ...)
  local entry = entry_of(id)
  if not entry then return false end
  local all = { ... }
  local retention = table.remove(all)
  local answer = enqueue(id, unpack(all))
  if type(answer) == 'string' then return answer end
  local joined
  for i = 1, #answer[2], 2 do
    if answer[2][i] == 'id' then joined = answer[2][i + 1] end
  end
  if joined ~= id then lead_to(id, joined, retention) end
  take_out(entry)
  return answer
end

-- id kind reason message payload retention -> whether it was still there; a request that no larder takes becomes a
-- dead letter
local function turn_away(id, kind, reason, message, payload, retention)
  local entry = entry_of(id)
  if not entry then return 0 end
  if redis.call('EXISTS', P .. 'job:' .. id) == 0 then
    local fine, request = pcall(cjson.decode, payload)
    local url = fine and type(request) == 'table' and request.notify
    local asked = { notify = type(url) == 'string' and #url <= 512 and cjson.encode({ url }) or nil }
    bury(id, asked, kind, 'pool', retention, reason, message, payload)
  end
  take_out(entry)
  return 1
end

